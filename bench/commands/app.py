"""The `bench` command: its commands, and what becomes of their errors.

A command's module declares options and imports what it needs when it is called, so that `--help`
comes at once.
"""

from __future__ import annotations

import errno
import shlex
import sys
from pathlib import Path
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
from bench.core.errors import BenchError
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


_WAYS_OUT = {
    **dict.fromkeys(
        (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG),
        "free some space there, or name a folder on another disk (--results)",
    ),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "check its permissions and its folder's: ls -ld"),
    errno.ENAMETOOLONG: "give a shorter name, or a folder with a shorter path",
    errno.EISDIR: "a file is needed here, and this is a folder",
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "a folder is needed here, and this is a file"),
    errno.EMFILE: "allow more open files: ulimit -n 4096",
}


def of_files(error: OSError) -> BenchError:
    """An error of the system's about a file, with what to do.

    >>> str(of_files(OSError(28, "No space left on device", "results/a.csv"))).splitlines()[0]
    'results/a.csv: No space left on device'
    """
    return BenchError(
        error.strerror or str(error),
        place=str(error.filename or f"a file that {Path.cwd()} or the grid leads to"),
        hint=_WAYS_OUT.get(error.errno or 0, "check the path, the disk and the permissions"),
    )


def main() -> None:
    """Runs the command; an error of the user's is a message and status 2, not a traceback."""
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
