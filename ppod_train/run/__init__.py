"""Offline training runs."""
