"""Sampling a data set."""
