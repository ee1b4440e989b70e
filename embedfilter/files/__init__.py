"""Files of embeddings, texts and filters: read within bounds, written whole or not at all."""
