"""Errors in a study file or on the command line."""


class ConfigError(Exception):
    """The configuration cannot be used.

    The message names the file and key or the command's option, and the allowed values.
    """
