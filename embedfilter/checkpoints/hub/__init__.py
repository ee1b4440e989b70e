"""Models on the Hugging Face Hub as folders, of which only what is needed is fetched."""
