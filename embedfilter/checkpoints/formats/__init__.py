"""The formats of checkpoints, one file each, and what they share."""
