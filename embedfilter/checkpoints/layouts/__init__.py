"""How the files of a model lie: which of a folder to read, and which make up a whole."""
