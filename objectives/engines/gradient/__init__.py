"""An engine that also differentiates a loss by the numbers of a merge."""
