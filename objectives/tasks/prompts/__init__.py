"""Prompt templates, rendered in a sandbox with bounded time and memory."""
