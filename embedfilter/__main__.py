"""``python -m embedfilter`` is the command ``embedfilter``."""

from embedfilter.commands.main import main

main(prog_name="embedfilter")
