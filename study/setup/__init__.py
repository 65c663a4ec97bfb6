"""Everything that is prepared before the first trial: tasks, engine, fingerprint, stored study."""
