"""Database URLs, connections, tables and retries."""
