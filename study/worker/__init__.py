"""Worker processes: their start, the loop that evaluates trials, and held-out scoring."""
