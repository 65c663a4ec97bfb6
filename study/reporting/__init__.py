"""The report of a study: its data, its figures and its page."""
