"""`bench retrieve`: the source images nearest to each target image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from bench.commands._options import DataRoot, Results, as_path, doing, grouped, say
from bench.core.files import write_csv


@dataclass(frozen=True)
class SearchOptions:
    """What images are described by, and how many neighbours are kept."""

    run: Annotated[
        str | None, typer.Option(help="run whose kernels describe images; else Gabor filters")
    ] = None
    layers: Annotated[str, typer.Option(help="layers of that run's network")] = "1,2"
    k: Annotated[int, typer.Option(min=1, help="neighbours of each target image")] = 40
    bins: Annotated[int, typer.Option(min=2, help="bins of each filter's histogram")] = 100
    memory_mib: Annotated[int, typer.Option(min=64, help="bound on the search's memory")] = 1024


@grouped
def retrieve(
    target: Annotated[str, typer.Option(help="a selection as YAML, {dataset: …}, or a folder")],
    source: Annotated[str, typer.Option(help="the selection or folder to search")],
    out: Annotated[
        Path,
        typer.Option(help="folder for neighbours.csv and neighbours.png", parser=as_path),
    ],
    *,
    search: SearchOptions,
    data_root: DataRoot = None,
    results: Results = Path("results"),
) -> None:
    """Find the source images nearest to each target image (selective joint fine-tuning)."""
    from analysis.figures.class_sheet import neighbour_sheet
    from analysis.figures.style import styled, to_png
    from analysis.measurements.selections import find_neighbours
    from bench.commands._selections import places_and_device, read_pair, validated
    from bench.core.files import write_atomic
    from bench.methods.retrieval.neighbours import SelectionOptions
    from bench.results.lookup import find_run, read_network

    places, device = places_and_device(results, data_root)
    run = search.run
    network = read_network(find_run(run, results)).model if run else None
    given = {"bank": "kernels" if run else "gabor", "layers": search.layers, "k0": search.k}
    given |= {"bins": search.bins, "rounds": 1, "memory_mib": search.memory_mib}
    options = validated(SelectionOptions, given, ())
    pair = read_pair(source, target, places)
    with doing("describing the images of both sides, and searching"):
        neighbours = find_neighbours(*pair, network, options, places, device)
    with styled():
        picture = to_png(neighbour_sheet(neighbours))
    write_csv(out / "neighbours.csv", neighbours.rows())
    write_atomic(out / "neighbours.png", picture)
    n_source, n_target = len(neighbours.source.train_keys), len(neighbours.target.train_keys)
    say(f"bank: {'; '.join(neighbours.bank)}; bins: {search.bins} ({neighbours.bin_edges})")
    say(
        f"{n_target} target images, {neighbours.nearest.stored} neighbours of each, "
        f"{neighbours.borrowed} of {n_source} source images in all"
    )
    for name in ("neighbours.csv", "neighbours.png"):
        say(out / name)


def register(app: typer.Typer) -> None:
    """Adds the command to the application."""
    app.command()(retrieve)
