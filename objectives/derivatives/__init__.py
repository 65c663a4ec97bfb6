"""How a loss changes with the numbers of a merge."""
