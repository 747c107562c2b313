"""The functions of the public API: each does the whole of one command, from paths to the report."""
