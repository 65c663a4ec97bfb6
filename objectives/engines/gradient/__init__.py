"""An engine that also differentiates a loss with respect to a recipe."""
