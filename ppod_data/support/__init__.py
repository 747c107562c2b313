"""Helpers without knowledge of data sets: progress, formatting, noise, the environment."""
