"""`bench retrieve`: the source images nearest to each target image."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.commands._options import DataRoot, Results, as_path


def retrieve(
    target: Annotated[str, typer.Option(help="a selection as YAML, {dataset: …}, or a folder")],
    source: Annotated[str, typer.Option(help="the selection or folder to search")],
    out: Annotated[
        Path,
        typer.Option(help="folder for neighbours.csv and neighbours.png", callback=as_path),
    ],
    run: Annotated[
        str | None, typer.Option(help="run whose kernels describe images; else Gabor filters")
    ] = None,
    layers: Annotated[str, typer.Option(help="layers of that run's network")] = "1,2",
    k: Annotated[int, typer.Option(min=1, help="neighbours of each target image")] = 40,
    bins: Annotated[int, typer.Option(min=2, help="bins of each filter's histogram")] = 100,
    memory_mib: Annotated[int, typer.Option(min=64, help="bound on the search's memory")] = 1024,
    data_root: DataRoot = None,
    results: Results = Path("results"),
) -> None:
    """Find the source images nearest to each target image (selective joint fine-tuning)."""
    from bench.commands._neighbours import Retrieval
    from bench.commands._neighbours import retrieve as find

    asked = Retrieval(run=run, layers=layers, k=k, bins=bins, memory_mib=memory_mib)
    for line in find(target, source, out, results=results, data_root=data_root, asked=asked):
        typer.echo(line)


def register(app: typer.Typer) -> None:
    """Adds the command to the application."""
    app.command()(retrieve)
