"""Errors in a study file or on the command line."""


class ConfigError(Exception):
    """The configuration cannot be used; the message names the file, the key and allowed values."""
