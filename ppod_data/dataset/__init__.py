"""Reading a data set."""
