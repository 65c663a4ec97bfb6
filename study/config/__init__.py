"""The schema of the study file, and its reader."""
