"""``python -m embedfilter`` is the command ``embedfilter``."""

from embedfilter.cli import main

main(prog_name="embedfilter")
