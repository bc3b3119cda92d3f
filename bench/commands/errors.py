"""`bench errors`: what a run got wrong, class by class and image by image."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.commands._options import Results, as_path, console, doing, say

if TYPE_CHECKING:
    from bench.results.mistakes import Predictions


def errors(
    run: Annotated[
        str, typer.Argument(help="the beginning of a run id, a part of a folder name, or a path")
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="folder for mistakes.csv, classes.csv and mistakes.png", parser=as_path),
    ] = None,
    results: Results = Path("results"),
) -> None:
    """Show precision and recall of each class, confused pairs, and the wrong images."""
    from rich.table import Table

    from bench.core.text import counted
    from bench.exports.card import accuracy_with_interval, share
    from bench.results.lookup import find_run
    from bench.results.mistakes import read_predictions

    folder = find_run(run, results)
    predictions = read_predictions(folder)
    screen = console()
    screen.print(f"accuracy: {accuracy_with_interval(predictions)}", highlight=False)
    table = Table(box=None, pad_edge=False)
    table.add_column("class")
    for name in ("test images", "recall", "precision", "called most often instead"):
        table.add_column(name, justify="left" if name.startswith("called") else "right")
    confused = predictions.confused()
    for one in predictions.by_class():
        instead = [f"{named} {n}" for label, named, n in confused if label == one.name][:3]
        cells = (str(one.images), share(one.recall), share(one.precision), ", ".join(instead))
        table.add_row(one.name, *cells)
    screen.print(table)
    wrong = predictions.wrong()
    screen.print(f"{counted(len(wrong), 'test image')} wrong", highlight=False)
    for image in wrong[:20]:
        screen.print(
            f"  {image.image}: {image.is_class}, called {image.named} "
            f"({100 * image.probability:.0f} %)",
            highlight=False,
        )
    if len(wrong) > 20:
        where = "in mistakes.csv" if out is not None else "--out FOLDER writes all of them"
        screen.print(f"  … and {len(wrong) - 20} more: {where}", highlight=False)
    if out is None:
        return
    spec = folder.spec()
    root = Path(spec.data.root) if spec.data.root else None
    with doing("drawing the wrong images"):
        written = write_mistakes(predictions, root, out)
    for path in written:
        say(path)


_SHOWN = 40


def write_mistakes(predictions: Predictions, root: Path | None, out: Path) -> list[Path]:
    """Writes mistakes.csv, classes.csv and, where the images lie in a folder, mistakes.png."""
    from bench.core.files import write_atomic, write_csv
    from bench.results.mistakes import Wrong

    wrong = predictions.wrong()
    write_csv(out / "mistakes.csv", [vars(one) for one in wrong], [f.name for f in fields(Wrong)])
    called = [f"called {name}" for name in predictions.classes]
    counts = predictions.confusion().tolist()
    rows = [
        {
            "class": one.name,
            "images": one.images,
            "recall": one.recall,
            "precision": one.precision,
            **dict(zip(called, counts[i], strict=True)),
        }
        for i, one in enumerate(predictions.by_class())
    ]
    write_csv(out / "classes.csv", rows)
    written = [out / "mistakes.csv", out / "classes.csv"]
    if root is None or not root.is_dir() or not wrong or not predictions.images:
        return written
    from analysis.figures.mistakes import mistake_sheet
    from analysis.figures.style import styled, to_png

    with styled():
        picture = to_png(mistake_sheet(wrong[:_SHOWN], root))
    write_atomic(out / "mistakes.png", picture)
    return [*written, out / "mistakes.png"]


def register(app: typer.Typer) -> None:
    """Adds the command to the application."""
    app.command()(errors)
