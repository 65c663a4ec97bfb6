"""What the commands share: options, logging, error messages and signals."""
