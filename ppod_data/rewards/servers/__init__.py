"""Reward models in other processes: ppod's own server and its client, and clients of other projects' servers."""
