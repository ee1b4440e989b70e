"""The command ``embedfilter``, also as ``python -m embedfilter``."""

import contextlib
import os
import signal
import sys

__all__ = ["run"]

_SIGNALS = 128  # and the signal's number: the exit status of what a signal has ended


def run() -> None:
    """Run the command. Ctrl-C before and after it ends the process, as the system does it."""
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
    try:
        main(prog_name="embedfilter")
    except SystemExit as end:
        if isinstance(end.code, int) and end.code > _SIGNALS:
            # Threads of other libraries may be at work still, and the end of Python not stand it.
            with contextlib.suppress(OSError):
                sys.stdout.flush()
            os._exit(end.code)
        raise
    finally:
        if is_usual:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    run()
