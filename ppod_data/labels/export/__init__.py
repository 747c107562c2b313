"""Export of pairs for labelling tools and trainers."""
