"""`bench finetune`: from a folder of photographs to a model, within a time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.commands._options import DataRoot, Results, as_path, console, marked
from bench.core.errors import BenchError

if TYPE_CHECKING:
    from bench.data.inspection.check import Problem
    from bench.race.arms import Trunk
    from bench.race.photographs import Photographs
    from bench.race.race import Race, Result


def finetune(
    images: Annotated[
        Path,
        typer.Argument(help="a folder per class, an archive or a CSV of them", parser=as_path),
    ],
    budget: Annotated[str, typer.Option(help="time for everything, such as 20m or 1h30m")] = "30m",
    name: Annotated[str | None, typer.Option(help="of grid and model; else the folder's")] = None,
    model: Annotated[
        str | None, typer.Option(help="a network of timm's with published weights")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="processes; else one per core")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    data_root: DataRoot = None,
    results: Results = Path("results"),
) -> None:
    """Find the best way to fine-tune on a folder of images, and leave the model."""
    import shlex
    import sys

    from bench.core.text import counted, duration
    from bench.launch.devices import Machine
    from bench.race.photographs import divide
    from bench.race.race import Race, parse_budget
    from bench.results.lookup import check_results
    from bench.results.store import Store

    check_results(results, "writable")
    budget_s = parse_budget(budget)
    out, root = console(), images.resolve()
    photographs = divide(root, {"data_root": data_root, "cache_dir": Store(results).cache})
    race = Race(
        name or _name_of(root),
        photographs,
        _trunk(model),
        results,
        budget_s,
        Machine(device),
        workers,
        out,
        data_root,
    )
    out.print(
        f"{root}: {counted(photographs.classes, 'class')}, {counted(photographs.train, 'image')} "
        f"with labels, {counted(photographs.test, 'test image')}; {photographs.words}",
        highlight=False,
    )
    for problem in _problems(photographs, data_root, Store(results).cache):
        out.print(marked("problem", "yellow", f": {problem}"))
    out.print(f"from {race.trunk.model}, {_weights(race.trunk)}; {duration(budget_s)}")
    if race.recall():
        out.print("goes on from what an earlier command of this name has decided")
    try:
        result = race.run()
    except KeyboardInterrupt:
        out.print("stopped; finished runs are kept")
        out.print(f"to go on: bench {shlex.join(sys.argv[1:])}", highlight=False)
        raise typer.Exit(130) from None
    for line in _answer(race, result):
        out.print(line, highlight=False)


def _problems(photographs: Photographs, data_root: Path | None, cache: Path) -> Sequence[Problem]:
    """What `bench data check` finds: the race skips what it cannot read, and takes the rest."""
    from bench.data.inspection.check import check
    from bench.planning.images import MOST_PAIRS

    kind, root = photographs.target["dataset"], photographs.target["root"]
    return check(kind, root, data_root=data_root, cache_dir=cache, most_pairs=MOST_PAIRS).problems


def _name_of(root: Path) -> str:
    """A grid's name of a folder's."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", root.name.split(".tar")[0].removesuffix(".zip"))
    return plain.strip("-.")[:60] or "photographs"


def _trunk(model: str | None) -> Trunk:
    from bench.models.inputs import published_size
    from bench.models.published import check_tag
    from bench.race.arms import Trunk, usual_trunk

    if model is None:
        return usual_trunk()
    plain, _, tag = model.partition(".")
    check_tag(plain, tag or None)
    size, crop = published_size(plain, tag or None)
    return Trunk(plain, {"timm": tag} if tag else "timm", size, crop)


def _weights(trunk: Trunk) -> str:
    if isinstance(trunk.weights, dict):
        return f"weights {next(iter(trunk.weights.values()))}"
    return "timm's weights"


def _answer(race: Race, result: Result) -> list[str]:
    """The ten lines at the end; writes the model folder and the mistakes."""
    from bench.commands.errors import write_mistakes
    from bench.core.text import counted, duration
    from bench.exports.card import accuracy_with_interval, model_card
    from bench.exports.model_folder import write_model
    from bench.exports.network import exported_network
    from bench.results.mistakes import paired_difference, read_predictions

    first, winner = result.final[0], result.standings[0]
    predictions = read_predictions(first)
    others = [read_predictions(folder) for folder in result.final[1:]]
    record = first.record()
    if record is None:
        raise BenchError("the final run has no result", hint="run the same command again")
    network = exported_network(first)
    place = race.results / "models" / race.name
    write_model(network, place, first.run_id, model_card(network, record, predictions))
    write_mistakes(predictions, Path(race.photographs.target["root"]), place)
    lines = ["", f"accuracy  {accuracy_with_interval(predictions)}"]
    if others:
        shares = [100 * float((p.named == p.labels).mean()) for p in [predictions, *others]]
        seeds = ", ".join(f"{share:.1f}" for share in shares)
        lines.append(f"          {counted(len(shares), 'seed')}: {seeds} %; the model is the first")
    epochs = _epochs(winner.arm.epochs(winner.stage.epochs))
    lines.append(f"recipe    {winner.arm.words}, {winner.stage.size} pixels, {epochs}")
    floor, words = result.floor
    if floor.run_id != first.run_id:
        than = paired_difference(predictions, read_predictions(floor))
        lines.append(f"          {than} against the floor ({words})")
    if result.scratch is not None:
        than = paired_difference(predictions, read_predictions(result.scratch))
        lines.append(f"          {than} against random weights")
    close = [
        f"{s.arm.words} {100 * s.accuracy:.1f} %"
        for s in result.standings[1:4]
        if s.stage.name == winner.stage.name or not s.stage.epochs
    ]
    if close:
        shown = f"{100 * winner.accuracy:.1f} % on validation images; then {'; '.join(close)}"
        lines.append(f"          {shown}")
    confused = predictions.confused()[:3]
    pairs = "; ".join(f"{label} called {named} {n}" for label, named, n in confused)
    lines.append(f"mistakes  {counted(len(predictions.wrong()), 'test image')}: {pairs or 'none'}")
    lines.append(f"          {place / 'mistakes.png'}, mistakes.csv, classes.csv")
    lines += _about_labels(result, place)
    lines.append(f"model     {place}")
    lines.append(f"          bench predict {place} FOLDER --out classes.csv")
    lines.append(f"the race  {race.path}, {duration(result.seconds)}; bench report {race.path}")
    return lines


def _about_labels(result: Result, place: Path) -> list[str]:
    """What more labels would do, and which look wrong; writes them all beside the model."""
    from dataclasses import fields

    from bench.core.files import write_csv
    from bench.core.text import counted
    from bench.race.labels import Suspicious

    labels = result.labels
    if labels is None:
        return ["labels    not checked: too few of some class"]
    columns = [field.name for field in fields(Suspicious)]
    write_csv(place / "suspicious.csv", [vars(one) for one in labels.suspicious], columns)
    gain = 100 * (labels.accuracy - labels.with_half)
    some = "; ".join(
        f"{one.image} is {one.label}, looks like {one.looks_like}" for one in labels.suspicious[:2]
    )
    return [
        f"labels    {counted(len(labels.suspicious), 'label')} of {labels.images} may be wrong"
        + (f": {some} (suspicious.csv)" if some else ""),
        f"          twice as many labels gave a classifier on features {gain:+.1f} points "
        f"(from {100 * labels.with_half:.1f} to {100 * labels.accuracy:.1f} %)",
    ]


def _epochs(count: int) -> str:
    from bench.core.text import counted

    return counted(count, "epoch") if count else "no training of the network"


def register(app: typer.Typer) -> None:
    """Adds the command to the application."""
    app.command()(finetune)
