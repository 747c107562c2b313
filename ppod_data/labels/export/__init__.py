"""Exporting pairs for labelling tools and trainers."""
