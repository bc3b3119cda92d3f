"""`bench distance`: how far is a target from a source? Every distance in one table.

Two selections, one network, and the distances of `analysis.measurements.distances` at equal sample
sizes. The features are those that a grid's `measure:` extracts, so the numbers are too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.commands._options import DataRoot, Results, console
from bench.core.errors import BenchError, nearest

if TYPE_CHECKING:
    from rich.table import Table
    from torch import nn

    from analysis.measurements.features_file import Extracted
    from bench.runs.build import Context


_RANDOM = "narrow8_32"
"""The network whose random features are taken where none is named."""


@dataclass(frozen=True)
class Distances:
    """What was measured.

    Attributes:
        rows: distance, value, low, high, p_value, n, notes; see `analysis.measurements.rows`.
        network: in words.
        layer: of it.
        images: of each side, before they are drawn to equal numbers.
        shared: images that are in both selections, by content.
    """

    rows: tuple[Mapping[str, Any], ...]
    network: str
    layer: str
    images: tuple[int, int]
    shared: int


def measure_selections(
    source: str,
    target: str,
    *,
    network: str = "scratch",
    layer: str = "penultimate",
    split: str = "train",
    images: int = 1000,
    seed: int = 0,
    results: Path,
    data_root: Path | None = None,
    device: str = "auto",
) -> Distances:
    """Every distance between two selections under one network.

    Args:
        source, target: selections as YAML, names of data sets, or folders of images.
        network: beginning of a run's id, `timm:NAME` for pretrained weights, or `scratch` or
            `scratch:NAME` for a random network.
        layer: `penultimate`, a layer's number, or the name of a module.
        split: train, val, test, trainval or all.
        images: at most so many of each side, all classes alike.
        seed: of the draws and resamples.
        results: where runs and caches lie.
        data_root: where data sets lie.
        device: auto, cpu or cuda.

    Raises:
        BenchError: a selection, network or layer that is not there, with the alternatives.
    """
    from analysis.measurements.rows import distance_rows
    from bench.commands._neighbours import read_selections
    from bench.methods import check
    from bench.runs.build import Context
    from bench.specs.measures import DistancesAsked

    context = Context(str(results), str(data_root) if data_root else None, device)
    places: dict[str, Any] = {"data_root": context.root, "cache_dir": context.cache}
    sides = [*read_selections({"source": source, "target": target}, places).values()]
    size = sides[1].image_size
    if sides[0].image_size != size:
        raise BenchError(
            f"source images of {sides[0].image_size} pixels and target images of {size}",
            hint="one network sees both: give both the same image_size",
        )
    given = {"layers": layer, "split": split, "images": images, "pixels": 32}
    options = check("extract", given)
    asked = DistancesAsked.model_validate(
        {"layer": layer, "split": split, "images": images, "seed": seed}
    )
    model, name = _network(network, size, results)
    found, wnids = zip(*(_features(model, data, options, context) for data in sides), strict=True)
    return Distances(
        rows=tuple(distance_rows(found[0], found[1], asked, all(wnids))),
        network=name,
        layer=layer,
        images=(len(found[0]), len(found[1])),
        shared=len(set(found[0].sha256) & set(found[1].sha256)),
    )


def _network(text: str, image_size: int, results: Path) -> tuple[nn.Module, str]:
    """The network that the option means, and what to call it."""
    kind, _, name = text.partition(":")
    if kind == "scratch":
        model = _random(name or _RANDOM, image_size)
        return model, f"{name or _RANDOM}, random weights"
    if kind == "timm":
        return _pretrained(name, image_size), f"{name}, timm's weights"
    from bench.results.lookup import find_run, read_network

    found = read_network(find_run(text, results))
    trained, spec = found.model, found.spec
    if spec.data.image_size != image_size:
        raise BenchError(
            f"the network was trained on {spec.data.image_size} pixels, the images have "
            f"{image_size}",
            hint=f"give both selections image_size: {spec.data.image_size}",
        )
    return trained, f"{spec.model.name} of run {text}"


def _random(name: str, image_size: int) -> nn.Module:
    from bench.models import layers
    from bench.specs.run import ModelSpec

    return layers.create(ModelSpec(name=name), 1, seed=0, image_size=image_size)


def _pretrained(name: str, image_size: int) -> nn.Module:
    from bench.grid.extractions import extraction_pattern
    from bench.models import layers, weights
    from bench.models.depths import depth_of
    from bench.specs.pattern import LayerPattern
    from bench.specs.run import FromTimm

    plain, _, tag = name.partition(".")
    init = FromTimm(tag=tag or None)
    pattern = LayerPattern.parse(extraction_pattern(init, depth_of(plain)))
    model = _random(plain, image_size)
    layers.apply_pattern(model, pattern, weights.load_state(init, plain, image_size=image_size))
    return model


def _features(
    model: nn.Module, data: Any, options: Any, context: Context
) -> tuple[Extracted, bool]:
    """The features of one selection, and whether its classes are WordNet ids."""
    from analysis.measurements.features_file import read_features
    from bench.data import catalog
    from bench.methods.features.extract import Extract
    from bench.methods.features.task import FeatureTask
    from bench.runs.build import Data

    places: dict[str, Any] = {"data_root": context.root, "cache_dir": context.cache}
    resolved = catalog.resolve(data, 0, **places)
    whole = Data(catalog.load(resolved, data, **places), resolved)
    with tempfile.TemporaryDirectory() as folder:
        task = FeatureTask(
            model,
            whole.sample(model),
            None,
            context.torch_device(),
            Path(folder),
            whole.selected(),
        )
        fitted = Extract(options).fit(task)
        path = fitted.files["features.npz"]
        assert isinstance(path, Path)
        return read_features(path), resolved.wnid_keyed


# --- what is printed --------------------------------------------------------------------------


def distance_table(found: Distances) -> Table:
    """A row per distance: value, 95 % interval, number of images, and what to know about it."""
    from rich.markup import escape
    from rich.table import Table

    table = Table("distance", box=None, pad_edge=False)
    for heading in ("value", "95 % interval", "n"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("notes")
    for row in found.rows:
        value, low, high = row["value"], row["low"], row["high"]
        notes = [row["notes"]]
        if row["p_value"] is not None:
            notes.append(f"p = {row['p_value']:.3g} by permutation")
        table.add_row(
            row["distance"],
            "not measured" if value is None else f"{value:.4g}",
            "" if low is None or high is None else f"{low:.4g} – {high:.4g}",
            str(row["n"]) if row["n"] else "",
            escape("; ".join(note for note in notes if note)),
        )
    return table


def distance(
    source: Annotated[str, typer.Option(help="a selection as YAML, {dataset: …}, or a folder")],
    target: Annotated[str, typer.Option(help="the selection or folder of the user's task")],
    network: Annotated[
        str, typer.Option(help="a run's id, timm:NAME, or scratch[:NAME] for random weights")
    ] = "scratch",
    layer: Annotated[
        str, typer.Option(help="penultimate, a layer's number or a module's name")
    ] = "penultimate",
    split: Annotated[
        str, typer.Option(help="images of both sides: train, val, test, trainval or all")
    ] = "train",
    images: Annotated[int, typer.Option(min=4, help="at most so many images of each side")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="of draws and resamples")] = 0,
    out: Annotated[Path | None, typer.Option(help="a CSV file for the table")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    data_root: DataRoot = None,
    results: Results = Path("results"),
) -> None:
    """Measure how far a target is from a source: every distance, with its interval."""
    if device not in ("auto", "cpu", "cuda"):
        raise BenchError(
            f"--device {device!r} is not known",
            hint=f"one of {nearest(device, ('auto', 'cpu', 'cuda'))}",
        )
    found = measure_selections(
        source,
        target,
        network=network,
        layer=layer,
        split=split,
        images=images,
        seed=seed,
        results=results,
        data_root=data_root,
        device=device,
    )
    printer = console()
    printer.print(
        f"{found.images[0]} source and {found.images[1]} target images, layer {found.layer} of "
        f"{found.network}",
        highlight=False,
    )
    printer.print(distance_table(found))
    if network.startswith("scratch"):
        printer.print("random weights see little: name the run trained on the source (--network)")
    if found.shared:
        printer.print(f"{found.shared} images are in both selections, by content")
    if out is not None:
        from bench.core.files import csv_text, write_atomic

        write_atomic(out, csv_text(found.rows))
        printer.print(f"{out}", highlight=False)


def register(app: typer.Typer) -> None:
    """Adds the command to the application."""
    app.command()(distance)
