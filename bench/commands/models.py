"""`bench export` and `bench predict`: a run's network as a model folder, and its predictions."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bench.commands._options import Results, as_path, doing, say


def export(
    run: Annotated[
        str, typer.Argument(help="the beginning of a run id, a part of a folder name, or a path")
    ],
    out: Annotated[
        Path | None, typer.Option(help="the model folder; else models/NAME", parser=as_path)
    ] = None,
    onnx: Annotated[bool, typer.Option(help="write model.onnx too, compared with torch")] = False,
    results: Results = Path("results"),
) -> None:
    """Write a run's network as a folder that timm and `bench predict` read."""
    from bench.exports.card import Place, accuracy_with_interval, model_card
    from bench.exports.model_folder import read_model, write_model, write_onnx
    from bench.exports.network import exported_network
    from bench.results.lookup import find_run
    from bench.results.mistakes import read_predictions

    folder = find_run(run, results)
    with doing(f"reading the network of {folder.path.name}"):
        network, predictions = exported_network(folder), read_predictions(folder)
    record = folder.record()
    assert record is not None
    place = out or results / "models" / folder.path.name[:-24]
    card = model_card(network, record, predictions, Place(place, results, folder.run_id))
    write_model(network, place, folder.run_id, card)
    say(f"accuracy: {accuracy_with_interval(predictions)}")
    if onnx:
        difference = write_onnx(read_model(place), place / "model.onnx")
        say(f"model.onnx: logits differ from torch by {difference:.2g} at the most")
    say(f"model: {place}")


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

    from bench.core.files import csv_text, write_atomic
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
    say(f"{counted(len(found) - len(broken), 'image')}: {named}{rest}", err=True)
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
