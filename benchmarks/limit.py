"""Grids against their arithmetic: `python -m benchmarks.limit [CASE …]` writes LIMITS.md.

The limit is forward, backward and the optimiser's step of as many images as the grid trains on, in
batches that lie in memory, and the forward passes of its evaluations, each network's step measured
here in the grid's own precision, before and after. The grid is trained in this process by the
function that workers call, its data decoded before. All are seconds of the processor with one
thread, so that what else runs on the machine moves them little. The goal is a share of 0.8.

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
from typing import Any

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
CASES = (
    Case("quickstart", _GRIDS / "quickstart.yaml", note="the whole grid"),
    Case(
        "tiny-imagenet",
        _GRIDS / "tiny-imagenet.yaml",
        only=("near-far",),
        overrides=(
            "class_draw=0",
            "seed=0",
            "train.precision=float32",
            "pretrain.precision=float32",
        ),
        note="near-far, one of its three draws of classes and one of its five seeds",
    ),
    Case(
        "heads and frozen layers",
        _GRIDS / "quickstart.yaml",
        overrides=("train.augment=none",),
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


@cache
def step_s(
    model: str, size: int, frozen: int, count: int, precision: str, kept: bool = False
) -> tuple[float, float]:
    """Seconds of a training step and of a forward pass of `count` images in memory.

    With `kept` both begin behind the frozen layers, with what those give in memory.
    """
    net = layers.create(ModelSpec(name=model), 10, seed=0, image_size=size)
    net.to(memory_format=torch.channels_last)
    parameters = dict(net.named_parameters())
    for layer in numbered_layers(net)[:frozen]:
        for name in layer.parameters:
            parameters[name].requires_grad_(False)
    trained = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
    inputs = torch.randn(count, 3, size, size).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(count) % 10
    run: Callable[[Tensor], Tensor] = net
    if kept:
        halves = prefix_suffix(net, frozen, size)
        assert halves is not None
        with torch.no_grad(), autocast(_CPU, precision):
            inputs, run = net.eval() and halves[0](inputs), halves[1]

    def train() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast(_CPU, precision):
            scores = run(inputs)
        cross_entropy(scores.float(), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    def forward() -> None:
        with torch.no_grad(), autocast(_CPU, precision):
            run(inputs)

    trained_s = _median(net.train() and train)
    return trained_s, _median(net.eval() and forward)


def _median(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(12):
        begun = time.process_time()
        work()
        seconds.append(time.process_time() - begun)
    return statistics.median(seconds[2:])


def limit_s(run: PlannedRun, kept: bool = False) -> float:
    """The arithmetic of one plain training; nothing is kept of frozen layers where images vary.

    With `kept` frozen layers see each image once, which is all that a run by itself needs where
    images are trained on as they are.
    """
    spec, train = run.spec, run.spec.train
    frozen = spec.layers.frozen_prefix
    kept = kept and bool(frozen) and train.augment == "none"
    images = run.facts.train_images
    passes = math.ceil(images / train.batch_size)
    of = (spec.model.name, spec.data.image_size)
    step, _ = step_s(*of, frozen, round(images / passes), train.precision, kept)
    _, forward = step_s(*of, 0, 64, train.precision)
    _, behind = step_s(*of, frozen, 64, train.precision, kept) if kept else (0.0, forward)
    validation = spec.data.val_per_class * len(run.facts.classes)
    whole = run.facts.held_out_images - validation
    whole += images + validation if kept else 0
    seen = whole * forward + validation * train.epochs / train.evaluate_every * behind
    return train.epochs * passes * step + seen / 64


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


def grid_s(session: Session, runs: Sequence[PlannedRun]) -> dict[str, float]:
    """Trains the runs; seconds of the processor by part, records and evaluations included.

    What happens until a run ends is counted for that run, so of runs that are trained together all
    of it for the first, which is of the same part.
    """
    context = Context(
        str(session.store.root.resolve()),
        str(session.data_root.resolve()) if session.data_root else None,
        device="cpu",
    )
    load = Loader(context)
    for run in runs:  # decoded by somebody before
        load(run.spec)
    names = {run.id: part_of(run) for run in runs}
    seconds = dict.fromkeys(names.values(), 0.0)
    begun = time.process_time()

    def report(event: Mapping[str, Any]) -> None:
        nonlocal begun
        if event["event"] != "ended":
            return
        if event["status"] != "done":
            raise SystemExit(f"a run ended as {event['status']}: {event.get('message')}")
        now = time.process_time()
        seconds[names[event["id"]]] += now - begun
        begun = now

    for batch in batches(runs, cost_s=lambda run: 1.0, limit_s=math.inf):
        execute_batch(
            [(run.id, run.spec) for run in batch.runs],
            context,
            report=report,
            should_stop=lambda: False,
        )
    return seconds


def _arithmetic(runs: Sequence[PlannedRun]) -> Measured:
    step_s.cache_clear()
    found = Measured()
    for run in runs:
        images = run.facts.train_images * run.spec.train.epochs
        one = Part(1, images, 0.0, limit_s(run), limit_s(run, kept=True))
        found.parts.setdefault(part_of(run), Part()).add(one)
    return found


def measured(case: Case, data_root: Path | None) -> Measured:
    """Trains a grid in a folder that vanishes, and measures its arithmetic before and after."""
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
        before = _arithmetic(runs)
        seconds = grid_s(session, runs)
        found = _arithmetic(runs)
    for run in runs:
        found.parts[part_of(run)].forecast_s += forecast.seconds(run) or 0.0
    for name, part in found.parts.items():
        part.took_s = seconds[name]
        part.limit_s = (part.limit_s + before.parts[name].limit_s) / 2
        part.kept_s = (part.kept_s + before.parts[name].kept_s) / 2
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
passes of the evaluations; `share` is arithmetic / took, 1 the limit of a harness that computes
every image in every epoch. Where images are trained on as they are, frozen layers need to see each
of them once only: `kept` is the share with that arithmetic, for each run by itself. `forecast` is
the sum of what `bench grid` says before, from steps measured on this machine.

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
