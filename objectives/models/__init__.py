"""Model folders: where they are, what they hold, and how tensors and vocabularies are read."""
