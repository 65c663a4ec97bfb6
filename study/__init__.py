"""The search: what a study is, how it proposes merges, and the commands that run it."""
