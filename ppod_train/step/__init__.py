"""One training step: log-probabilities, gradient, metrics."""
