"""An offline training run."""
