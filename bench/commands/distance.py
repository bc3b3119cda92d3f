"""`bench distance`: how far is a target from a source? Every distance in one table.

Two selections, one network, and the distances of `analysis.measurements.distances` at equal sample
sizes. The features are those that a grid's `measure:` extracts, so the numbers are too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.commands._options import DataRoot, Results, console, doing, grouped
from bench.core.errors import BenchError, nearest
from bench.core.files import write_csv

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Features:
    """Which images a distance is measured on, as which layer of which network shows them."""

    network: Annotated[
        str,
        typer.Option(
            help="a run's id, timm:NAME, package:NAME, '{file: PATH, model: NAME}', or "
            "scratch[:NAME] for random weights"
        ),
    ] = "scratch"
    layer: Annotated[str, typer.Option(help="penultimate, a layer's number or a module's name")] = (
        "penultimate"
    )
    split: Annotated[
        str, typer.Option(help="images of both sides: train, val, test, trainval or all")
    ] = "train"
    images: Annotated[int, typer.Option(min=4, help="at most so many images of each side")] = 1000
    seed: Annotated[int, typer.Option(min=0, help="of draws and resamples")] = 0


@grouped
def distance(
    source: Annotated[str, typer.Option(help="a selection as YAML, {dataset: …}, or a folder")],
    target: Annotated[str, typer.Option(help="the selection or folder of the user's task")],
    *,
    features: Features,
    out: Annotated[Path | None, typer.Option(help="a CSV file for the table")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    data_root: DataRoot = None,
    results: Results = Path("results"),
) -> None:
    """Measure how far a target is from a source: every distance, with its interval."""
    from analysis.measurements.selections import check_sizes, measure_selections
    from bench.commands._selections import (
        named_network,
        places_and_device,
        read_pair,
        validated,
    )
    from bench.specs.measures import DistancesAsked

    if device not in ("auto", "cpu", "cuda"):
        raise BenchError(
            f"--device {device!r} is not known",
            hint=f"one of {nearest(device, ('auto', 'cpu', 'cuda'))}",
        )
    places, processor = places_and_device(results, data_root, device)
    options = asdict(features)
    network = options.pop("network")
    asked = validated(DistancesAsked, options, ())
    first, second = read_pair(source, target, places)
    check_sizes(first, second)
    model, words = named_network(network, second.image_size, results)
    with doing("computing the features of both sides, and the distances"):
        measured = measure_selections(first, second, model, asked, places, processor)
    n_source, n_target = measured.images
    printer = console()
    printer.print(
        f"{n_source} source and {n_target} target images, layer {features.layer} of {words}",
        highlight=False,
    )
    printer.print(distance_table(measured.rows))
    if network.startswith("scratch"):
        printer.print("random weights see little: name the run trained on the source (--network)")
    if measured.shared:
        printer.print(f"{measured.shared} images are in both selections, by content")
    if out is not None:
        write_csv(out, measured.rows)
        printer.print(f"{out}", highlight=False)


def distance_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A row per distance: value, 95 % interval, number of images, and remarks."""
    from rich.table import Table

    table = Table("distance", box=None, pad_edge=False)
    for heading in ("value", "95 % interval", "n"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("notes")
    for row in rows:
        value, low, high = row["value"], row["low"], row["high"]
        notes = [row["notes"]]
        if row["p_value"] is not None:
            notes.append(f"p = {row['p_value']:.3g} by permutation")
        table.add_row(
            row["distance"],
            "not measured" if value is None else f"{value:.4g}",
            "" if low is None or high is None else f"{low:.4g} – {high:.4g}",
            str(row["n"]) if row["n"] else "",
            "; ".join(note for note in notes if note),
        )
    return table


def register(app: typer.Typer) -> None:
    """Adds the command to the application."""
    app.command()(distance)
