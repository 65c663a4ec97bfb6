"""The files that a study writes: exported merges with their model cards, and the report."""
