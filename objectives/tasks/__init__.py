"""Tasks: turn question files into prompts, and answers into scores."""
