"""Verifying, replaying, sealing and purging data sets."""
