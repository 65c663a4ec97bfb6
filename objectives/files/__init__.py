"""Bounded reading of files from any source, and atomic writing of folders."""
