"""Grids against their arithmetic: `python -m benchmarks.limit [CASE …]` writes LIMITS.md.

The limit is forward, backward and the optimiser's step of as many images as the grid trains on, in
batches that lie in memory, and the forward passes of its evaluations, in the grid's own precision.
The grid is trained in this process by the function that workers call, its data decoded before. All
are seconds of the processor with one thread; a busy machine doubles them, so each network's step is
measured in between, about once a second. The goal is a share of 0.8.

`--set K=V` measures less of a case, and the page says so. `--grid FILE [--only E] [--set K=V]`
measures another grid, prints its parts and keeps nothing.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from bench.models import layers
from bench.models.numbering import numbered_layers
from bench.models.prefix import prefix_suffix
from bench.planning.forecast import measure
from bench.planning.plan import batches
from bench.planning.workspace import Session, open_session
from bench.runs.build import Context, Loader
from bench.runs.execute import execute_batch
from bench.specs.planned import PlannedRun
from bench.specs.run import ModelSpec
from bench.training.precision import autocast
from bench.training.process import prepare
from benchmarks.run import processor

PAGE = Path(__file__).with_name("LIMITS.md")
KEPT = Path(__file__).with_name("limits.json")
_CPU = torch.device("cpu")
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Case:
    """A grid, or a part of it, and the share of its arithmetic that it has to reach."""

    name: str
    grid: Path
    goal: float = 0.8
    only: Sequence[str] = ()
    overrides: Sequence[str] = ()
    note: str = ""

    @classmethod
    def read(cls, path: Path, only: Sequence[str], overrides: Sequence[str]) -> Case:
        """Of what is typed."""
        return cls(path.name, path, only=only, overrides=overrides)


_GRIDS = _HERE.parent / "grids"
FLOAT32 = ("train.precision=float32", "pretrain.precision=float32")
CASES = (
    Case("quickstart", _GRIDS / "quickstart.yaml", overrides=FLOAT32, note="the whole grid"),
    Case(
        "tiny-imagenet",
        _GRIDS / "tiny-imagenet.yaml",
        only=("near-far",),
        overrides=("class_draw=0", "seed=0", *FLOAT32),
        note="near-far, one of its three draws of classes and one of its five seeds",
    ),
    Case(
        "heads and frozen layers",
        _GRIDS / "quickstart.yaml",
        overrides=("train.augment=none", *FLOAT32),
        note="quickstart with images as they are: heads trained together, activations kept",
    ),
    Case(
        "by hand",
        _HERE / "by-hand.yaml",
        goal=0.85,
        note="126 fine-tunings: 2 sizes x 3 rates x 3 seeds x (2 sources x 3 patterns + scratch)",
    ),
)


# --- the arithmetic ------------------------------------------------------------------------------


class Steps(NamedTuple):
    """Seconds of a training step and of a forward pass of 64 images, both in memory.

    `kept_train` and `behind` are the same behind the frozen layers, with what those give in memory.
    """

    train: float
    forward: float
    kept_train: float
    behind: float


Work = Callable[[], object]


@cache
def works(
    model: str, size: int, frozen: int, count: int, precision: str, kept: bool = False
) -> tuple[Work, Work]:
    """A training step of `count` images, and a forward pass of 64; with `kept` behind the frozen
    layers."""
    net = layers.create(ModelSpec(name=model), 10, seed=0, image_size=size)
    net.to(memory_format=torch.channels_last)
    parameters = dict(net.named_parameters())
    for layer in numbered_layers(net)[:frozen]:
        for name in layer.parameters:
            parameters[name].requires_grad_(False)
    trained = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
    pixels = torch.randn(max(count, _HELD), 3, size, size)
    inputs = pixels.contiguous(memory_format=torch.channels_last)
    labels = torch.arange(count) % 10
    run: Callable[[Tensor], Tensor] = net
    if kept:
        halves = prefix_suffix(net, frozen, size)
        assert halves is not None
        with torch.no_grad(), autocast(_CPU, precision):
            net.eval()
            inputs, run = halves[0](inputs), halves[1]

    def train() -> None:
        net.train()
        optimizer.zero_grad(set_to_none=True)
        with autocast(_CPU, precision):
            scores = run(inputs[:count])
        cross_entropy(scores.float(), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    def forward() -> None:
        net.eval()
        with torch.no_grad(), autocast(_CPU, precision):
            run(inputs[:_HELD])

    return train, forward


_HELD, _REPEATED = 64, 3


def steps_of(run: PlannedRun) -> Steps:
    """The passes of a run as they are at this moment; the first of each does not count."""
    spec, train = run.spec, run.spec.train
    frozen = spec.layers.frozen_prefix
    passes = math.ceil(run.facts.train_images / train.batch_size)
    count = round(run.facts.train_images / passes)
    asked = (spec.model.name, spec.data.image_size, frozen, count, train.precision)
    plain = [_seconds(work) for work in works(*asked)]
    behind = [_seconds(work) for work in works(*asked, True)] if _is_kept(run) else plain
    return Steps(*plain, *behind)


def _seconds(work: Work) -> float:
    work()
    begun = time.process_time()
    for _ in range(_REPEATED):
        work()
    return (time.process_time() - begun) / _REPEATED


def _is_kept(run: PlannedRun) -> bool:
    """Whether frozen layers see the same images in each epoch."""
    return bool(run.spec.layers.frozen_prefix) and run.spec.train.augment == "none"


def limit_s(run: PlannedRun, steps: Steps, kept: bool = False) -> float:
    """The arithmetic of one plain training; nothing is kept of frozen layers where images vary.

    With `kept` frozen layers see each image once, which is all that a run by itself needs where
    images are trained on as they are.
    """
    spec, train = run.spec, run.spec.train
    kept = kept and _is_kept(run)
    step, behind = (steps.kept_train, steps.behind) if kept else (steps.train, steps.forward)
    images = run.facts.train_images
    validation = spec.data.val_per_class * len(run.facts.classes)
    whole = run.facts.held_out_images - validation
    whole += images + validation if kept else 0
    seen = whole * steps.forward + validation * train.epochs / train.evaluate_every * behind
    return train.epochs * math.ceil(images / train.batch_size) * step + seen / _HELD


# --- the grid ------------------------------------------------------------------------------------


@dataclass
class Part:
    """Runs of one pattern, or the sources.

    Attributes:
        runs, images: of them; `images` counts each as often as it is trained on.
        took_s: seconds of the processor.
        limit_s: of them arithmetic.
        kept_s: arithmetic where frozen layers see an image once for each run.
        forecast_s: what `bench grid` would have said.
    """

    runs: int = 0
    images: int = 0
    took_s: float = 0.0
    limit_s: float = 0.0
    kept_s: float = 0.0
    forecast_s: float = 0.0

    def add(self, other: Part) -> None:
        """Counts those of another one too."""
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass
class Measured:
    """What a grid took, by part."""

    parts: dict[str, Part] = field(default_factory=dict)

    @property
    def whole(self) -> Part:
        """All parts together."""
        found = Part()
        for part in self.parts.values():
            found.add(part)
        return found


def part_of(run: PlannedRun) -> str:
    """The name of the part that a run belongs to."""
    return "sources" if run.role == "source" else str(run.spec.layers)


class _Watch:
    """Counts what runs take, and in between what their steps take.

    What happens until a run ends is counted for that run, so of runs that are trained together all
    of it for the first, which is of the same part.

    Attributes:
        took: seconds of the processor by run.
        steps: what was measured meanwhile, by run.
    """

    def __init__(self, runs: Sequence[PlannedRun]) -> None:
        self.runs = {run.id: run for run in runs}
        self.took = dict.fromkeys(self.runs, 0.0)
        self.steps: dict[str, list[Steps]] = {key: [] for key in self.runs}
        self.begun = self.looked = time.process_time()

    def report(self, event: Mapping[str, Any]) -> None:
        """Receives the events of `execute_batch`."""
        now, key, ended = time.process_time(), str(event.get("id")), event["event"] == "ended"
        if ended and event["status"] != "done":
            raise SystemExit(f"a run ended as {event['status']}: {event.get('message')}")
        if event["event"] not in ("epoch", "ended"):
            return
        self.took[key] += now - self.begun
        if now - self.looked > _EVERY_S or (ended and not self.steps[key]):
            self.steps[key].append(steps_of(self.runs[key]))
            self.looked = time.process_time()
        self.begun = time.process_time()

    def mean(self, key: str) -> Steps:
        """Of a run's steps."""
        return Steps(*(statistics.fmean(column) for column in zip(*self.steps[key], strict=True)))


_EVERY_S = 1.0


def train_all(session: Session, runs: Sequence[PlannedRun]) -> _Watch:
    """Trains the runs, records and evaluations included."""
    context = Context(
        str(session.store.root.resolve()),
        str(session.data_root.resolve()) if session.data_root else None,
        device="cpu",
    )
    load = Loader(context)
    for run in runs:  # decoded by somebody before, and networks of the measured steps made
        load(run.spec)
        steps_of(run)
    watch = _Watch(runs)
    for batch in batches(runs, cost_s=lambda run: 1.0, limit_s=math.inf):
        execute_batch(
            [(run.id, run.spec) for run in batch.runs],
            context,
            report=watch.report,
            should_stop=lambda: False,
        )
    return watch


def measured(case: Case, data_root: Path | None) -> Measured:
    """Trains a grid in a folder that vanishes, and measures its arithmetic meanwhile."""
    with tempfile.TemporaryDirectory() as fresh:
        session = open_session(
            case.grid,
            results=Path(fresh),
            data_root=data_root,
            only=case.only,
            overrides=case.overrides,
        )
        runs = [run for run in session.wanted if run.role != "extract"]
        if any(run.spec.method.name != "plain" or run.spec.train.expand_to for run in runs):
            raise SystemExit("only plain training without expansion has this limit")
        forecast = measure(runs, device="cpu")
        watch = train_all(session, runs)
    found = Measured()
    for run in runs:
        steps, images = watch.mean(run.id), run.facts.train_images * run.spec.train.epochs
        arithmetic = limit_s(run, steps), limit_s(run, steps, kept=True)
        one = Part(1, images, watch.took[run.id], *arithmetic, forecast.seconds(run) or 0.0)
        found.parts.setdefault(part_of(run), Part()).add(one)
    return found


# --- the page ------------------------------------------------------------------------------------


def keep(case: Case, found: Measured) -> None:
    """Puts what was measured into limits.json, by the case's name."""
    one = {
        "date": f"{datetime.date.today():%Y-%m-%d}",
        "load": os.getloadavg()[2],
        "settings": list(case.overrides),
        "parts": {name: asdict(part) for name, part in found.parts.items()},
    }
    KEPT.write_text(json.dumps(kept() | {case.name: one}, indent=1) + "\n")


def kept() -> dict[str, Any]:
    """What was measured of each case."""
    found: dict[str, Any] = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    return found


def rows(name: str, found: Measured, goal: float | None = None) -> Iterable[str]:
    """The table's lines of a grid: the whole, and its parts."""
    whole = ("all", found.whole)
    for part, one in (whole, *found.parts.items()):
        shown = "" if goal is None or part != "all" else f"{goal:g}"
        kept_share = f"{one.kept_s / one.took_s:.2f}" if one.kept_s != one.limit_s else ""
        yield (
            f"| {name if part == 'all' else ''} | {part} | {one.runs} | {one.images:,} | "
            f"{one.took_s:.1f} | {one.limit_s:.1f} | {one.limit_s / one.took_s:.2f} | {shown} | "
            f"{kept_share} | {one.forecast_s:.1f} |"
        )


HEAD = (
    "| grid | part | runs | images trained on | took, s | arithmetic, s | share | goal | kept | "
    "forecast, s |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


def page() -> str:
    """The whole of LIMITS.md."""
    figures = {case: kept()[case.name] for case in CASES if case.name in kept()}
    dates = sorted({str(f["date"]) for f in figures.values()})
    loads = sorted(float(f["load"]) for f in figures.values())
    lines: list[str] = []
    for case, one in figures.items():
        found = Measured({name: Part(**part) for name, part in one["parts"].items()})
        lines += rows(case.name, found, case.goal)
    notes = "\n".join(map(_note, figures, figures.values()))
    versions = ", ".join(f"{n} {metadata.version(n)}" for n in ("torch", "timm"))
    return f"""# Grids against their arithmetic

Measured on {" and ".join(dates)} by `python -m benchmarks.limit`: {processor()}, {os.cpu_count()}
cores, Python {platform.python_version()}, {versions}; load average over a quarter of an hour
{loads[0]:.1f} to {loads[-1]:.1f}.

Seconds of the processor in one process of one thread, in float32. `took` is everything from a run's
decoded images to its record; `arithmetic` forward, backward and the optimiser's step of as many
images in batches that lie in memory (no backward pass through frozen layers), and the forward
passes of the evaluations, with steps measured between the grid's own; `share` is arithmetic / took,
1 the limit of a harness that computes every image in every epoch. Where images are trained on as
they are, frozen layers need to see each of them once only: `kept` is the share with that
arithmetic, for each run by itself. `forecast` is the sum of what `bench grid` says before, from
steps measured on this machine.

{HEAD}
{chr(10).join(lines)}

{notes}
"""


def _note(case: Case, one: Mapping[str, Any]) -> str:
    given = " ".join(f"`--set {text}`" for text in one["settings"])
    return f"* {case.name}: {case.note}" + (f"; {given}" if given else "")


def main() -> None:
    """Prints the parts of each grid; writes LIMITS.md of the named cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(c.name for c in CASES))
    parser.add_argument("--grid", type=Path)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    given = parser.parse_args()
    prepare(1)
    print(HEAD)
    if given.grid is not None:
        case = Case.read(given.grid, given.only, given.overrides)
        print("\n".join(rows(case.name, measured(case, given.data_root))))
        return
    for case in CASES:
        if not given.cases or case.name in given.cases:
            case = replace(case, overrides=(*case.overrides, *given.overrides))
            found = measured(case, given.data_root)
            print("\n".join(rows(case.name, found, case.goal)), flush=True)
            keep(case, found)
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
