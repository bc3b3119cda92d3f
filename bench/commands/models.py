"""`bench export` and `bench predict`: a run's network as a model folder, and its predictions."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from bench.commands._options import DataRoot, Results, as_path, doing, say
from bench.core.errors import BenchError, DataError

if TYPE_CHECKING:
    from bench.methods.averaging import Recipe
    from bench.results.lookup import Network
    from bench.results.mistakes import Predictions
    from bench.results.store import RunFolder


def export(
    run: Annotated[
        list[str],
        typer.Argument(help="the beginning of a run id, a part of a folder name, or a path"),
    ],
    out: Annotated[
        Path | None, typer.Option(help="the model folder; else models/NAME", parser=as_path)
    ] = None,
    soup: Annotated[
        Literal["uniform", "greedy"] | None,
        typer.Option(help="average the weights of several runs: all, or what helps on validation"),
    ] = None,
    onnx: Annotated[bool, typer.Option(help="write model.onnx too, compared with torch")] = False,
    data_root: DataRoot = None,
    results: Results = Path("results"),
) -> None:
    """Write a run's network, or the mean of several, as a folder for timm and `bench predict`."""
    from bench.exports.card import Place, accuracy_with_interval, model_card
    from bench.exports.model_folder import read_model, write_model, write_onnx
    from bench.exports.network import exported_network
    from bench.results.lookup import find_run
    from bench.results.mistakes import read_predictions

    folders = [find_run(one, results) for one in run]
    folder, name = folders[0], folders[0].path.name[:-24]
    place = out or results / "models" / (f"{name}-{soup}-soup" if soup else name)
    if soup is not None:
        network, predictions, record, lines = _soup(folders, soup, results, data_root)
    elif len(folders) > 1:
        raise BenchError(
            f"{len(folders)} runs are named, and a model is of one",
            hint="name one run, or average them with --soup uniform or --soup greedy",
        )
    else:
        with doing(f"reading the network of {folder.path.name}"):
            network, predictions = exported_network(folder), read_predictions(folder)
        record, lines = folder.record() or {}, []
    ids = "+".join(one.run_id for one in folders)
    card = model_card(
        network, record, predictions, Place(place, results, folder.run_id), soup=lines
    )
    write_model(network, place, ids, card)
    say(f"accuracy: {accuracy_with_interval(predictions)}")
    if onnx:
        difference = write_onnx(read_model(place), place / "model.onnx")
        say(f"model.onnx: logits differ from torch by {difference:.2g} at the most")
    say(f"model: {place}")


def _soup(
    folders: Sequence[RunFolder], recipe: Recipe, results: Path, data_root: Path | None
) -> tuple[Network, Predictions, Mapping[str, Any], list[str]]:
    """Averages and prints what went in; the network, its test, and lines for the model card."""
    from bench.core.text import counted
    from bench.exports.card import share
    from bench.results.mistakes import paired_difference, read_predictions
    from bench.runs.build import Context
    from bench.runs.soup import make_soup

    root = None if data_root is None else str(data_root)
    with doing(f"averaging {counted(len(folders), 'run')}"):
        made = make_soup(folders, recipe, Context(results=str(results), data_root=root))
    used = sum(one.used for one in made.ingredients)
    heading = f"{recipe} soup: the mean of the weights of {used} of {counted(len(folders), 'run')}"
    say(heading)
    lines = [
        f"{'in ' if one.used else 'out'}  {share(one.val_accuracy)} on validation images, "
        f"{one.folder.path.name}"
        for one in made.ingredients
    ]
    for line in lines:
        say(f"  {line}")
    alone = share(made.best.val_accuracy)
    say(f"validation: {share(made.val_accuracy)}, the best run alone {alone}")
    best = made.best.folder
    if best.file_named(best.record() or {}, "predictions") is not None:
        than = paired_difference(made.predictions, read_predictions(best))
        say(f"test: {than} against that run")
    card = [f"* A {heading} (Wortsman et al. 2022):", *(f"  * {line}" for line in lines)]
    return made.network, made.predictions, made.record, card


def predict(
    model: Annotated[
        Path, typer.Argument(help="a folder of bench export or bench finetune", parser=as_path)
    ],
    images: Annotated[list[Path], typer.Argument(help="image files, or folders of them")],
    out: Annotated[
        Path | None, typer.Option(help="CSV file; else the table is printed", parser=as_path)
    ] = None,
) -> None:
    """Name the class of each image, with its probability and the three likeliest classes."""
    from collections import Counter

    from bench.core.files import csv_text, lies_beside, write_atomic

    for path in (model, *images):  # before what follows is imported
        if not path.exists():
            raise DataError(f"{path} is not there", hint=lies_beside(path))
    from bench.core.text import counted, printable
    from bench.exports.model_folder import read_model
    from bench.exports.predict import image_files, predictions

    files, passed = image_files(images)
    with doing(f"classifying {counted(len(files), 'image')}"):
        found = list(predictions(read_model(model), files))
    table = csv_text([one.row() for one in found])
    if out is None:
        typer.echo(printable(table) if sys.stdout.isatty() else table, nl=False)
    else:
        write_atomic(out, table)
    broken = [one for one in found if one.error]
    counts = Counter(one.top[0][0] for one in found if one.top)
    named = ", ".join(f"{name} {count}" for name, count in counts.most_common(8))
    rest = f", and {len(counts) - 8} more classes" if len(counts) > 8 else ""
    named = f": {named}{rest}" if named else " classified"
    say(f"{counted(len(found) - len(broken), 'image')}{named}", err=True)
    if counts:
        say("each is given one of the model's classes, whatever it shows", err=True)
    if passed:
        say(f"{counted(passed, 'file')} passed over: no images", err=True)
    for one in broken[:5]:
        say(f"not read: {one.file}: {one.error}", err=True)
    if len(broken) > 5:
        say(f"not read: {len(broken) - 5} more, see the column error", err=True)
    if out is not None:
        say(out)
    if broken:
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Adds the commands to the application."""
    app.command()(export)
    app.command()(predict)
