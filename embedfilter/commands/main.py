"""The command line as a whole: its commands, and how it ends when one of them fails."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from typing import Any, NoReturn

import click

from embedfilter.commands.apply import apply
from embedfilter.commands.calibrate import calibrate
from embedfilter.commands.demo import demo
from embedfilter.commands.encode import encode
from embedfilter.commands.evaluate import evaluate
from embedfilter.commands.export import export
from embedfilter.commands.fit import fit
from embedfilter.commands.inspect import inspect
from embedfilter.commands.lens import lens
from embedfilter.commands.mteb import mteb
from embedfilter.commands.plot import plot
from embedfilter.commands.wording import in_options
from embedfilter.errors import EmbedFilterError
from embedfilter.files.messages import NOT_THERE
from embedfilter.version import __version__

__all__ = ["main"]

_INTERRUPTED = 128 + signal.SIGINT  # the exit status that shells give a process it has ended
_ARGUMENTS = "embedfilter.arguments"  # of this run, among what click keeps of it


class _UsageLine(click.ClickException):
    """A usage error, as one line like any other."""

    exit_code = 2

    def __init__(self, error: click.UsageError) -> None:
        message = error.format_message().strip().removesuffix(".")
        message = message[:1].lower() + message[1:]
        path = "embedfilter" if error.ctx is None else error.ctx.command_path
        if error.ctx is not None and "argument" in message:
            usage = " ".join(error.ctx.get_usage().split()).removeprefix("Usage: ")
            message = f"{message}; expected {usage}"
        super().__init__(f"{message}{'' if message.endswith('?') else ';'} see '{path} --help'")

    def show(self, file: Any = None) -> None:
        click.echo(f"embedfilter: error: {self.message}", file=file, err=file is None)


@contextlib.contextmanager
def _usage_in_a_line() -> Iterator[None]:
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:  # which shows the help
        raise
    except click.UsageError as error:
        raise _UsageLine(error) from None


class _Group(click.Group):
    """Turns what a command raises for bad input into one line and exit status 2."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with _usage_in_a_line():
            return super().make_context(*args, **kwargs)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[_ARGUMENTS] = list(args)
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order in which they are come to."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with warnings.catch_warnings(), _termination_unwinds(), _usage_in_a_line():
                warnings.showwarning = functools.partial(_show_warning, ctx)
                return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("embedfilter: interrupted", err=True)
            ctx.exit(_INTERRUPTED)
        except BrokenPipeError:  # the reader of our output has gone: click ends quietly
            raise
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            is_missing = error.strerror == os.strerror(errno.ENOENT)
            _fail(ctx, f"{place}{NOT_THERE if is_missing else error.strerror or error}")
        except (
            EmbedFilterError,
            ValueError,
            TypeError,
            ArithmeticError,
            MemoryError,
            ImportError,  # of an extra that is not installed
            Warning,  # under python -W error
        ) as error:
            _fail(ctx, str(error) or type(error).__name__)


@contextlib.contextmanager
def _termination_unwinds() -> Iterator[None]:
    """Make SIGTERM end the process as an exception does, so that no partial file stays."""
    # Python lets only the main thread say what signals do; one that is ignored stays so.
    if threading.current_thread() is not threading.main_thread() or (
        signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    ):
        yield
        return
    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminate(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def _fail(ctx: click.Context, message: str) -> None:
    click.echo(f"embedfilter: error: {_line(ctx, message)}", err=True)
    ctx.exit(2)


def _show_warning(ctx: click.Context, message: Warning | str, *_: Any, **__: Any) -> None:
    click.echo(f"embedfilter: warning: {_line(ctx, str(message))}", err=True)


def _line(ctx: click.Context, message: str) -> str:
    """Return a message as one line, about options of the command that runs."""
    command = main.commands.get(str(ctx.invoked_subcommand), main)
    return in_options(
        " ".join(message.splitlines()), command, {"embedfilter fit": fit}, ctx.meta[_ARGUMENTS]
    )


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="embedfilter")
def main() -> None:
    """Better, smaller text embeddings from a language model's own unembedding matrix.

    \b
    Example:
      embedfilter fit path/to/model -o filter.safetensors
      embedfilter apply filter.safetensors embeddings.npy filtered.npy
    """  # noqa: D301 - click takes the backspace for "do not wrap"


for command in (fit, calibrate, apply, encode, evaluate, mteb, inspect, lens, plot, export, demo):
    main.add_command(command)
