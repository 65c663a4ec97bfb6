"""Recipes and sources in, merged tensors out."""
