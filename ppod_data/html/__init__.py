"""Pages and charts shared by data sets and training reports."""
