"""Writes the file of a new study: inspects models and question files, and chooses settings."""
