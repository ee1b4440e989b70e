"""The command ``embedfilter``, also as ``python -m embedfilter``."""

import os
import signal
import sys

__all__ = ["run"]


def run() -> None:
    """Run the command. Ctrl-C before it is loaded ends the process, as the system does it."""
    if sys.stderr is None or not sys.stderr.isatty():  # other libraries' bars would fill a file
        os.environ.setdefault("TQDM_DISABLE", "1")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    handler = signal.getsignal(signal.SIGINT)
    is_usual = handler is signal.default_int_handler
    if is_usual:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from embedfilter.commands.main import main  # noqa: PLC0415 - what takes a moment to load

    if is_usual:
        signal.signal(signal.SIGINT, handler)
    main(prog_name="embedfilter")


if __name__ == "__main__":
    run()
