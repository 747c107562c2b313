"""Readers of label files: JSON, CSV, Parquet, spreadsheets."""
