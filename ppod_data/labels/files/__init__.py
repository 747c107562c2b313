"""Readers of label files, one record at a time."""
