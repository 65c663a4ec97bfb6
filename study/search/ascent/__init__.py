"""Search by gradient: the optimiser, its batches, and the chain rule to a genome's parameters."""
