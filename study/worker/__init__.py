"""Worker processes: how they start, the loop that evaluates trials, and held-out scoring."""
