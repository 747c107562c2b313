"""Training data: pairs, trajectories, the reference's log-probabilities."""
