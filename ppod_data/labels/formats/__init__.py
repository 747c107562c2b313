"""Parsers of published and exported label formats, one file a format."""
