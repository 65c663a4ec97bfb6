"""Evaluate merges: merge models, ask an engine the questions of tasks, and score the answers."""
