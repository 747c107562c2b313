"""The format of a data set: spec, manifest, tables, trajectories, checksums."""
