"""The commands that have a file of their own; the others are in `embedfilter.cli`."""
