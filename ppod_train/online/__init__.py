"""Online training in stages."""
