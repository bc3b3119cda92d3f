"""`bench finetune`: from a folder of photographs to a model, within a time."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.commands._options import (
    DataRoot,
    Results,
    Tensorboard,
    as_path,
    console,
    grouped,
    marked,
)
from bench.commands.slurm import SubmitOptions
from bench.core.errors import BenchError
from bench.core.files import lies_beside
from bench.core.text import counted, duration

if TYPE_CHECKING:
    from rich.console import Console

    from bench.data.inspection.check import Problem
    from bench.race.arms import Trunk
    from bench.race.photographs import Photographs
    from bench.race.race import Race, Result


@dataclass(frozen=True)
class RaceOptions:
    """What races, for how long, and on what."""

    budget: Annotated[str, typer.Option(help="time for everything, such as 20m or 1h30m")] = "30m"
    name: Annotated[str | None, typer.Option(help="of grid and model; else the folder's")] = None
    model: Annotated[
        str | None, typer.Option(help="a network of timm's with published weights")
    ] = None
    workers: Annotated[int | None, typer.Option(min=1, help="processes; else one per core")] = None
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto"
    tensorboard: Tensorboard = False


@grouped
def finetune(
    images: Annotated[
        Path,
        typer.Argument(help="a folder per class, an archive or a CSV of them", parser=as_path),
    ],
    *,
    asked: RaceOptions,
    data_root: DataRoot = None,
    results: Results = Path("results"),
    slurm: Annotated[
        bool, typer.Option("--slurm", help="race on a node of the SLURM cluster, as one job")
    ] = False,
    submission: SubmitOptions,
) -> None:
    """Find the best way to fine-tune on a folder of images, and leave the model."""
    from bench.launch.devices import Machine
    from bench.race.budget import Budget, parse_budget

    _check(asked, slurm, submission)
    time = Budget(parse_budget(asked.budget))  # begins before what follows is imported
    if not images.exists():
        raise _absent(images)
    out = console()
    out.print("reading the images", highlight=False)
    from bench.race.photographs import divide
    from bench.race.race import Race
    from bench.results.lookup import check_results
    from bench.results.store import Store

    check_results(results, "writable")
    root = images.resolve()
    photographs = divide(root, {"data_root": data_root, "cache_dir": Store(results).cache})
    race = Race(
        asked.name or _name_of(root),
        photographs,
        _trunk(asked.model),
        results.resolve() if slurm else results,
        time,
        Machine(asked.device),
        asked.workers,
        out,
        data_root,
        tensorboard=asked.tensorboard,
    )
    _introduce(race, root, out)
    if slurm:
        raise typer.Exit(_submit(race, root, asked, submission))
    stages = _recall(race, asked)
    if race.answered():
        out.print("the race came to its end before; its answer again, from what is kept")
    elif stages:
        out.print(
            "goes on from what an earlier command of this name has decided, in "
            f"{duration(race.budget.earlier_s)} of the time"
        )
    for problem in _problems(photographs, data_root, Store(results).cache):
        out.print(marked("problem", "yellow", f": {problem}"))
    _run(race)


def _check(asked: RaceOptions, slurm: bool, submission: SubmitOptions) -> None:
    if slurm and asked.workers is not None:
        raise BenchError(
            "--workers is for this machine", hint="with --slurm use --slurm-set cpus_per_task=N"
        )
    if asked.tensorboard:
        from bench.exports.tensorboard import check_tensorboard

        check_tensorboard()
    if submission.given and not slurm:
        raise BenchError("--slurm-… options are for --slurm", hint="add --slurm, or leave them out")


def _recall(race: Race, asked: RaceOptions) -> int:
    """Takes up what an earlier command of the name has decided; how many stages.

    Raises:
        BenchError: it came to its end, and more time is given: its rungs were planned for less,
            and test images have been read since.
    """
    stages, decided = race.recall(), race.decisions
    if decided.done and decided.budget_s is not None and race.budget.total_s > decided.budget_s:
        raise BenchError(
            f"the race {race.name!r} came to its end with a budget of "
            f"{duration(decided.budget_s)}: more time cannot be added to rungs that were planned "
            "for less",
            place=str(race.path),
            hint=f"--name {race.name}-{asked.budget} races for {duration(race.budget.total_s)} and "
            "trains nothing anew that is the same; its test images are those that the first race "
            "has shown the accuracy of. The earlier --budget shows the answer again",
        )
    return stages


def _run(race: Race) -> None:
    import sys

    out = race.console
    try:
        result = race.run()
    except KeyboardInterrupt:
        out.print("stopped; finished runs are kept")
        again = _as_called(f"bench {shlex.join(sys.argv[1:])}")
        out.print(f"to go on: {again}", highlight=False)
        raise typer.Exit(130) from None
    if race.tensorboard:
        from bench.exports.tensorboard import write_missing

        store = result.session.store
        write_missing(store.folder(run.id, run.spec) for run in result.session.wanted)
    race.decisions.answer = tuple(_answer(race, result))
    race.decisions.keep()
    out.print("\n".join(map(_as_called, race.decisions.answer)), highlight=False)


def _submit(race: Race, root: Path, asked: RaceOptions, submission: SubmitOptions) -> int:
    """The race as a job of the cluster, or its answer where there is one; the exit status."""
    from bench.commands._slurm import submit_race
    from bench.launch.slurm.settings import read_settings
    from bench.race.on_cluster import RaceOnCluster

    _recall(race, asked)
    if answer := race.answered():
        race.console.print("\n".join(map(_as_called, answer)), highlight=False)
        return 0
    device = None if asked.device == "auto" else asked.device
    settings = read_settings({}, submission.overrides(device=device), place="--slurm-set")
    if settings.threads != 1:
        raise BenchError(
            f"threads is {settings.threads}, and here each process has one",
            place="--slurm-set",
            hint="leave it out; cpus_per_task is the number of processes",
        )
    job = RaceOnCluster(race.name, race.decisions.path, race.results, settings)
    arguments = ["finetune", str(root), "--budget", asked.budget, "--name", race.name]
    arguments += ["--results", str(race.results)]
    arguments += ["--tensorboard"] if race.tensorboard else []
    arguments += ["--model", asked.model] if asked.model else []
    arguments += ["--data-root", str(race.data_root.resolve())] if race.data_root else []
    watch = shlex.join(["bench", "status", str(race.path), "--results", str(race.results)])
    return submit_race(job, arguments, race.budget, race.console, f"{watch} --watch")


def _absent(images: Path) -> BenchError:
    """What is wrong with a path that leads nowhere, as it was given."""
    return BenchError(
        f"there are no images: {str(images)!r} does not exist",
        hint=f"{lies_beside(images)}; give a folder with a folder of images per class, an archive "
        "of it, or a CSV with the columns path and label",
    )


def _introduce(race: Race, root: Path, out: Console) -> None:
    """Shows what is raced on, and from which weights."""
    photographs = race.photographs
    out.print(
        f"{root}: {counted(photographs.classes, 'class')}, {counted(photographs.train, 'image')} "
        f"with labels, {counted(photographs.test, 'test image')}; {photographs.words}",
        highlight=False,
    )
    text = f"from {race.trunk.model}, {_weights(race.trunk)}; {duration(race.budget.total_s)}"
    out.print(text)


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
    """The lines at the end; writes the model folder and the mistakes."""
    from bench.commands.errors import write_mistakes
    from bench.exports.card import Place, accuracy_with_interval, model_card
    from bench.exports.model_folder import write_model
    from bench.exports.network import exported_network
    from bench.race.course import best_of_families
    from bench.results.mistakes import read_predictions

    first, kinds = result.final[0], best_of_families(result.course)
    predictions = read_predictions(first)
    record = first.record()
    if record is None:
        raise BenchError("the final run has no result", hint="run the same command again")
    network = exported_network(first)
    folder = race.results / "models" / race.name
    place = Place(folder, race.results, first.run_id)
    card = model_card(network, record, predictions, place, kinds)
    write_model(network, folder, first.run_id, card)
    sheets = write_mistakes(predictions, Path(race.photographs.target["root"]), folder)
    confused = predictions.confused()[:3]
    pairs = "; ".join(f"{label} called {named} {n}" for label, named, n in confused)
    wrong = counted(len(predictions.wrong()), "test image")
    report = shlex.join(["bench", "report", str(race.path), "--results", str(race.results)])
    spent_s = result.seconds if race.budget.earlier_s >= result.seconds else race.budget.spent_s
    took = f"{duration(spent_s)} of {duration(race.budget.total_s)}"
    return [
        "",
        f"accuracy  {accuracy_with_interval(predictions)}",
        *_compared(result),
        f"chosen on {_validation(result)}; the best recipe of each kind:",
        *(f"        {one}" for one in kinds),
        f"mistakes  {wrong}: {pairs or 'none'}",
        f"          {', '.join(path.name for path in sheets)} in {folder}",
        f"          {place.errors}",
        *_about_labels(result, folder),
        f"model     {folder}",
        f"          {place.predict}",
        f"the race  {race.path}, {took}",
        f"          {report}",
    ]


def _validation(result: Result) -> str:
    images = result.standings[0].images
    draws = result.standings[0].stage.seeds
    of = f" of {draws} draws" if draws > 1 else ""
    return f"{counted(images, 'validation image')}{of}" if images else "validation images"


def _as_called(line: str) -> str:
    """A command as it can be typed: with the path of a program that the shell would not find."""
    import shutil
    import sys

    if not line.lstrip().startswith("bench ") or shutil.which("bench"):
        return line
    called = Path(sys.argv[0])
    return line.replace("bench", shlex.quote(str(called)), 1) if called.name == "bench" else line


def _compared(result: Result) -> list[str]:
    """The winner's recipe and other seeds, and the model beside the floor and random weights."""
    from bench.results.mistakes import paired_difference, read_predictions

    winner = result.standings[0]
    predictions, *others = (read_predictions(folder) for folder in result.final)
    lines = []
    if others:
        shares = [100 * float((p.named == p.labels).mean()) for p in [predictions, *others]]
        seeds = ", ".join(f"{share:.1f}" for share in shares)
        lines.append(f"          {counted(len(shares), 'seed')}: {seeds} %; the model is the first")
    epochs = winner.arm.epochs(winner.stage.epochs)
    trained = counted(epochs, "epoch") if epochs else "no training of the network"
    lines.append(f"recipe    {winner.arm.words}, {winner.stage.size} pixels, {trained}")
    if result.floor is not None and winner.stage.epochs:
        floor, words = result.floor
        than = paired_difference(predictions, read_predictions(floor))
        lines.append(f"          {than} against the floor ({words})")
    if result.scratch is not None:
        than = paired_difference(predictions, read_predictions(result.scratch))
        lines.append(f"          {than} against random weights")
    return lines


def _about_labels(result: Result, place: Path) -> list[str]:
    """What more labels would do, and which look wrong; writes them all beside the model."""
    from dataclasses import fields

    from bench.core.files import write_csv
    from bench.race.labels import Suspicious

    labels = result.labels
    if isinstance(labels, str):
        return [f"labels    not checked: {labels}"]
    columns = [field.name for field in fields(Suspicious)]
    write_csv(place / "suspicious.csv", [vars(one) for one in labels.suspicious], columns)
    some = "; ".join(
        f"{one.image} is {one.label}, looks like {one.looks_like}" for one in labels.suspicious[:2]
    )
    return [
        f"labels    {counted(len(labels.suspicious), 'label')} of {labels.images} may be wrong"
        + (f": {some} (suspicious.csv)" if some else ""),
        f"          twice as many labels gave a classifier on features {labels.doubled}",
    ]


def register(app: typer.Typer) -> None:
    """Adds the command to the application."""
    app.command()(finetune)
