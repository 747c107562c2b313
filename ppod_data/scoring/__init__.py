"""Scoring the images of a data set."""
