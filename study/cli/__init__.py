"""Options, logging, error messages and signals of all commands."""
