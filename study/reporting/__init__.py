"""The report of a study: its data, and the page and figures drawn from them."""
