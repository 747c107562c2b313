"""Parsers of published and exported label formats, one file per format."""
