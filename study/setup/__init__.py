"""Prepare a study before its first trial: models, tasks, engine and fingerprint."""
