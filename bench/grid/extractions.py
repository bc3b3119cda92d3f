"""Which extractions a measurement needs, worked out from the runs of a grid; pure.

A distance needs the images of a source and of a target under one network, filters need the target's
images under every network of theirs, transferability the target's under each source's network. What
several measurements need is one run, since equal specs are one run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from bench.core.errors import GridError, ModelError
from bench.methods import resolved
from bench.models.depths import depth_of
from bench.results.conditions import Settings
from bench.results.records import source_label
from bench.specs.data import DataSpec
from bench.specs.measures import (
    DistancesAsked,
    FiltersAsked,
    OtherNetwork,
    Part,
    Task,
    TransferabilityAsked,
)
from bench.specs.run import (
    FromRun,
    FromTimm,
    Init,
    MethodSpec,
    ModelSpec,
    RunSpec,
    Scratch,
    Seeds,
)

PIXELS = 32
"""The side that the convolutional domain classifier takes (CHU: Krizhevsky's CIFAR-10 network)."""


@dataclass(frozen=True)
class Wanted:
    """A run of the grid that a measurement is about, its leaderboard columns and experiments.

    Attributes:
        settings: of all runs of the grid.
    """

    run: RunSpec
    row: Mapping[str, Any]
    experiments: tuple[str, ...]
    settings: Settings

    @cached_property
    def task(self) -> Task:
        """Its target, source and network."""
        words = ("dataset", "target", "class_draw", "source", "model")
        named = {name: self.row[name] for name in words}
        return Task(**named, task_id=self.settings.task(self.run))

    @property
    def source(self) -> RunSpec | None:
        """The run on other data that it starts from; None for scratch, self and chains."""
        parent = self.run.parent
        if parent is None or parent.data.identity() == self.run.data.identity():
            return None
        return parent

    @property
    def size(self) -> tuple[float, int]:
        """Larger targets are greater, of equal ones the first draw."""
        count = self.run.data.images_per_class
        return (float("inf") if count is None else float(count), -self.run.seeds.draw)


def extraction_pattern(init: Init, depth: int) -> str:
    """All layers of a run's network; of weights that others made all but their classifier.

    >>> extraction_pattern(FromTimm(), 8), extraction_pattern(Scratch(), 8)
    ('F(1-7)R(8)', 'R(1-8)')
    """
    match init:
        case FromRun():
            return f"F(1-{depth})"
        case Scratch():
            return f"R(1-{depth})"
        case _:
            return f"F(1-{depth - 1})R({depth})"


def extraction(
    init: Init,
    model: ModelSpec,
    data: DataSpec,
    draw: int,
    **options: str | int | None,
) -> RunSpec:
    """The features of a selection under a network.

    Raises:
        BenchError: no such network, or a layer number that it does not have.
    """
    if data.views:
        raise GridError(
            f"features are of whole images, and a sample of {data.dataset!r} has the views "
            f"{', '.join(data.views)}",
            hint="name other experiments: experiments: […]",
        )
    depth = depth_of(model.name)
    for name in str(options["layers"]).split(","):
        if name.isdigit() and not 1 <= int(name) <= depth:
            raise ModelError(
                f"layer {name} is asked for, and {model.name} has layers 1 to {depth}",
                hint="choose one of them, penultimate, or the name of a module",
            )
    checked = resolved("extract", options)
    return RunSpec(
        data=data,
        model=model,
        pattern=extraction_pattern(init, depth),
        init=init,
        method=MethodSpec(name="extract", options=tuple(sorted(checked.items()))),
        seeds=Seeds(draw=draw),
        allow_overlap=True,  # nothing is trained, so nothing can leak
    )


def _largest(wanted: Sequence[Wanted], key: Callable[[Wanted], Any]) -> dict[Any, Wanted]:
    """By key, the run with the most images of each class; of equal ones the first."""
    best: dict[Any, Wanted] = {}
    for one in wanted:
        if key(one) not in best or one.size > best[key(one)].size:
            best[key(one)] = one
    return best


def _experiments(wanted: Sequence[Wanted]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for one in wanted for name in one.experiments))


# --- distances --------------------------------------------------------------------------------


def _distances(wanted: Sequence[Wanted], asked: DistancesAsked) -> Iterator[Part]:
    from_sources = [one for one in wanted if one.source is not None]
    for task, one in _largest(from_sources, lambda w: w.task).items():
        source, target = one.source, one.run
        assert source is not None
        init, model, name = _network(asked, source, task.source)
        within = _experiments([w for w in from_sources if w.task == task])
        seen = source.data.model_copy(update={"image_size": target.data.image_size})
        sides: dict[Literal["source", "target"], tuple[DataSpec, int]] = {
            "source": (seen, source.seeds.draw),
            "target": (target.data, target.seeds.draw),
        }
        for role, (data, draw) in sides.items():
            scored = role == "target" and init.kind == "run"
            run = extraction(
                init,
                model,
                data,
                draw,
                layers=f"{asked.layer},scores" if scored else asked.layer,
                stage=asked.stage,
                pool=asked.pool,
                split=asked.split,
                images=asked.images,
                pixels=PIXELS,
            )
            of = source if init.kind == "run" else None
            count = target.data.images_per_class
            yield Part(task, role, name, run, of, "", count, within)


def _network(asked: DistancesAsked, source: RunSpec, label: str) -> tuple[Init, ModelSpec, str]:
    match asked.network:
        case OtherNetwork(timm=name, tag=tag):
            shown = f"timm {name}" + (f" {tag}" if tag else "")
            return FromTimm(tag=tag), ModelSpec(name=name), shown
        case "scratch":
            return Scratch(), source.model, "random"
        case _:
            return FromRun(run=source), source.model, label


# --- transferability --------------------------------------------------------------------------


def _transferability(wanted: Sequence[Wanted], asked: TransferabilityAsked) -> Iterator[Part]:
    candidates = [w for w in wanted if w.source is not None or w.run.init.kind in ("timm", "file")]
    for task, one in _largest(candidates, lambda w: w.task).items():
        init = one.run.init
        run = extraction(
            init,
            one.run.model if one.source is None else one.source.model,
            one.run.data,
            one.run.seeds.draw,
            layers=f"{asked.layer},scores" if init.kind == "run" else asked.layer,
            stage="end",
            pool="flatten",
            split="train",
            images=asked.images,
            pixels=PIXELS,
        )
        within = _experiments([w for w in candidates if w.task == task])
        count = one.run.data.images_per_class
        yield Part(task, "target", task.source, run, one.source, "", count, within)


# --- filters ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Net:
    """A network whose filters are judged, and on which target."""

    name: str
    run: RunSpec
    seed: str
    one: Wanted


def _filters(wanted: Sequence[Wanted], asked: FiltersAsked) -> Iterator[Part]:
    judged = [w for w in wanted if _is_tuned(w) or _is_self(w)]

    def target(one: Wanted) -> tuple[Any, ...]:
        return (one.task.dataset, one.task.target, one.task.class_draw, one.task.model)

    largest = _largest(judged, target)
    for key, whole in largest.items():
        group = [
            one
            for one in judged
            if target(one) == key
            and one.run.data.images_per_class == whole.run.data.images_per_class
        ]
        for net in _networks(group):
            yield from _judged(net, asked, _experiments(group))


def _is_tuned(one: Wanted) -> bool:
    """Fine-tuned as LI does: all layers copied and tuned but the last, which is random."""
    pattern, method = one.run.layers, one.run.method.name
    kinds = [pattern.kind(layer) for layer in range(1, pattern.depth + 1)]
    return (
        one.source is not None
        and method == "plain"
        and kinds == ["T"] * (pattern.depth - 1) + ["R"]
        and one.run.train.tuned == "all"
    )


def _is_self(one: Wanted) -> bool:
    return one.run.init.kind == "scratch" and one.run.method.name == "plain"


def _networks(group: Sequence[Wanted]) -> list[_Net]:
    """The networks of one target; a source's once, the others for each seed."""
    found: dict[tuple[str, str], _Net] = {}
    for one in group:
        label = source_label(one.run)
        seeds = one.run.seeds
        own = _Net(
            "self" if _is_self(one) else f"FT-{label}",
            one.run,
            f"{seeds.draw} {seeds.init} {seeds.order}",
            one,
        )
        if one.source is not None:
            found.setdefault((label, ""), _Net(label, one.source, "", one))
        there = found.setdefault((own.name, own.seed), own)
        if there.run != own.run:
            differ = [c for c in one.row if one.row[c] != there.one.row[c]]
            raise GridError(
                f"two runs are {own.name} with one seed; they differ in {', '.join(differ)}",
                hint=f"keep one: where: {{{differ[0] if differ else 'lr'}: …}}",
            )
    return list(found.values())


def _judged(net: _Net, asked: FiltersAsked, within: tuple[str, ...]) -> Iterator[Part]:
    splits: dict[Literal["judged", "chosen"], str] = {"judged": asked.split}
    if asked.choose_on is not None and asked.choose_on != asked.split:
        splits["chosen"] = asked.choose_on
    data, draw = net.one.run.data, net.one.run.seeds.draw
    for role, split in splits.items():
        run = extraction(
            FromRun(run=net.run),
            net.run.model,
            data,
            draw,
            layers=",".join(asked.layers),
            stage=asked.stage,
            pool="max",
            split=split,
            images=asked.images,
        )
        yield Part(
            net.one.task, role, net.name, run, net.run, net.seed, data.images_per_class, within
        )


PARTS: Mapping[str, Callable[..., Iterator[Part]]] = {
    "distances": _distances,
    "filters": _filters,
    "transferability": _transferability,
}
"""By the name of a measurement, what makes its parts."""
