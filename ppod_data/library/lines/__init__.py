"""Lines of text that sum up results, for a terminal or a notebook: one function a kind of result."""
