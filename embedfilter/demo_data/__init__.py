"""The texts of the demo and their embeddings by a small language model."""
