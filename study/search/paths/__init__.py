"""The search for a path through the layers of several models."""
