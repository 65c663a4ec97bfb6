"""Which merge a study chooses, and whether it is better than the models it came from."""
