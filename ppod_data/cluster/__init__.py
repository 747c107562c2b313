"""Generation and scoring on a Ray cluster."""
