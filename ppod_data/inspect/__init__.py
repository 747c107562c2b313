"""Statistics, pages and cards of a data set."""
