"""Options that commands share: declared once, read by typer in their place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from bench.commands._options import grouped
from bench.commands.slurm import SubmitOptions


@dataclass(frozen=True)
class Pair:
    left: Annotated[int, typer.Argument(min=1)]
    right: Annotated[list[str] | None, typer.Option("--right", "-r", help="some words")] = None


@grouped
def command(pair: Pair, *, loud: bool = False, other: SubmitOptions) -> None:
    """Shows what it was given."""
    typer.echo(f"{pair} {loud} {other.overrides(threads=None)} {other.given}")


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["3"], "Pair(left=3, right=None) False [] False"),
        (["3", "-r", "a", "-r", "b", "--loud"], "Pair(left=3, right=['a', 'b']) True [] False"),
        (
            ["3", "--slurm-qos", "long", "--slurm-set", "max_jobs=2"],
            "Pair(left=3, right=None) False [('max_jobs', 2), ('qos', 'long')] True",
        ),
    ],
)
def test_a_dataclass_stands_for_an_option_per_field(arguments: list[str], shown: str) -> None:
    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, arguments)
    assert result.output.strip() == shown


def test_options_are_checked_and_shown_in_their_order() -> None:
    app = typer.Typer()
    app.command()(command)
    assert CliRunner().invoke(app, ["0"]).exit_code == 2
    text = CliRunner().invoke(app, ["--help"]).output
    assert "Shows what it was given." in text
    places = [text.index(name) for name in ("--right", "some words", "--loud", "--slurm-set")]
    assert places == sorted(places)
