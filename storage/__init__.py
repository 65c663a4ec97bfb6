"""Persistent state: studies, trials, scores and workers, in SQLite or PostgreSQL."""
