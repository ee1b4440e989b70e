"""From an unembedding matrix, and perhaps a sample of embeddings, to what a filter consists of."""
