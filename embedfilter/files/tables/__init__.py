"""Files of embeddings, texts and labels: one front for all formats, read a part at a time."""
