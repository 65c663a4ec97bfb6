"""Compute merged tensors from a recipe and sources."""
