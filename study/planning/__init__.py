"""Before a study runs: an estimate of what it costs, and a check of the disk space."""
