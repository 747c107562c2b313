"""Evaluating a policy."""
