"""Derivatives of a loss with respect to the parameters of a merge."""
