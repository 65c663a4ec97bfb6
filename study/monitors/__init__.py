"""Observers of a running study: progress line, Weights & Biases, dashboard."""
