"""Merges written to disk as model folders."""
