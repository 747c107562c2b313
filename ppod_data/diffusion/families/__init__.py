"""Pipeline families, one file each."""
