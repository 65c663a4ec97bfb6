"""Search by gradient: the optimizer, its batches, and the chain rule to a genome's parameters."""
