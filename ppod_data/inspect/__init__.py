"""Statistics and pages of a data set."""
