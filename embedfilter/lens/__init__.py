"""Vectors seen through the unembedding matrix: tokens, spectra, diagnostics."""
