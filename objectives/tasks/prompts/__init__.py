"""Prompt templates, rendered in a sandbox within limits."""
