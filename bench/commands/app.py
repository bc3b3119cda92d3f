"""The `bench` command: its commands, and what becomes of their errors.

A command's module declares options and imports what it needs when it is called, so that `--help`
comes at once.
"""

from __future__ import annotations

import atexit
import gc
import shlex
import sys
from typing import Annotated

import typer

from bench import __version__
from bench.commands import (
    class_images,
    classes,
    data,
    distance,
    errors,
    findings,
    finetune,
    grid,
    models,
    recommend,
    report,
    retrieve,
    show,
    slurm,
)
from bench.commands._options import Shown, any_terminal
from bench.core.errors import BenchError, of_files
from bench.core.text import printable

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Trains the whole grid of fine-tuning choices and shows what works, with what certainty.",
    epilog="Exit status: 0 all done, 1 some runs failed, 2 the command or the grid is wrong, "
    "130 interrupted.",
)

for _module in (
    grid,
    show,
    classes,
    retrieve,
    data,
    findings,
    recommend,
    report,
    distance,
    class_images,
    models,
    finetune,
    errors,
    slurm,
):
    _module.register(app)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="print the version")] = False,
) -> None:
    if version:
        typer.echo(f"bench {__version__}")
        raise typer.Exit


def main() -> None:
    """Runs the command; an error of the user's is a message and status 2, not a traceback."""
    gc.set_threshold(20_000)  # what starting makes stays; looking for cycles in it took a tenth
    atexit.register(gc.freeze)  # nor does Python look for them in all that a command leaves behind
    any_terminal()
    stderr = sys.stderr
    if stderr is not None:
        sys.stderr = Shown(stderr)
    try:
        app()
    except BenchError as error:
        typer.echo(printable(f"error: {error}"), err=True)
        sys.exit(2)
    except OSError as error:
        typer.echo(printable(f"error: {of_files(error)}"), err=True)
        sys.exit(2)
    except SystemExit as end:
        if end.code == 130 and isinstance(
            getattr(end.__context__, "__cause__", None), KeyboardInterrupt
        ):
            again = printable(shlex.join(sys.argv[1:]))
            typer.echo(
                f"ended at once; what is finished is kept\nto go on: bench {again}", err=True
            )
        raise
    finally:
        sys.stderr = stderr
