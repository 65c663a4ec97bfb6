"""Question files: rows, fields, labels and lists of options, and the held-out split."""
