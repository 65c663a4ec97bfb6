"""What a study leaves on disk: exported merges with their model cards, and the end of a run."""
