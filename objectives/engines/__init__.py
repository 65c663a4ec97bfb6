"""Engines load a merge and answer prompts with it."""
