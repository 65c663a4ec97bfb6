"""Draft the file of a new study: inspect the models and the questions, and choose the settings."""
