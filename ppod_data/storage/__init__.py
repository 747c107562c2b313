"""Files and object stores: atomic writes, ranges, the cache."""
