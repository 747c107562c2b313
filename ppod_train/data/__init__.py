"""Training data: pairs, trajectories and the reference's log-probabilities."""
