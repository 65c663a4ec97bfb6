"""Monitors of a running study: progress line, warnings, Weights & Biases, dashboard."""
