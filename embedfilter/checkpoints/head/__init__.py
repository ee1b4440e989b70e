"""Which tensor of a checkpoint is the unembedding matrix, and how its numbers are stored."""
