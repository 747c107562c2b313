"""Preference pairs made from scores."""
