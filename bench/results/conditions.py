"""What is equal: the settings of a run by name, and the ids of its condition, recipe and task.

A *condition* is a run's spec without its seeds and its class draw, and without those of the runs
and selections in it: what is repeated. A *recipe* is a condition without what names the task: the
data set, folder and classes of the target, and those of sources that are chosen relative to it. A
*task* is one target: data set, classes and class draw; nested subsets of one draw (`take`, or
another number of classes of it) are one task.

All three are digests of the spec alone, found by walking its models, so a new field counts without
a list to be kept. Nothing else in the harness decides which runs repeat each other.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import BaseModel

from bench.specs.data import Borrowed, DataSpec
from bench.specs.run import FromRun, RunSpec, canonical_json

COLUMN_OF: Mapping[str, str] = {
    "target.dataset": "dataset",
    "target.classes.class_draw": "class_draw",
    "target.images_per_class": "images_per_class",
    "target.image_size": "image_size",
    "target.views": "views",
    "target.train_where": "train_where",
    "model.name": "model",
    "pattern": "pattern",
    "method.name": "method",
    "train.lr": "lr",
    "train.copied_lr_factor": "copied_lr_factor",
    "train.weight_decay": "weight_decay",
    "train.epochs": "epochs",
    "train.batch_size": "batch_size",
    "train.expand_to": "expand_to",
    "train.tuned": "tuned",
    "train.layer_lr_decay": "layer_lr_decay",
    "train.l2_sp": "l2_sp",
    "weights.kind": "source_kind",
    "source.pattern": "source_pattern",
    "source.train.epochs": "source_epochs",
    "seeds.draw": "seed_draw",
    "seeds.init": "seed_init",
    "seeds.order": "seed_order",
}
"""Settings that have a leaderboard column under another, older name."""

_COUNTS = ("take", "n", "target_n", "source_n")
_RELATIVE = ("near_far", "categories", "half")
_DIGITS = 16


@functools.cache
def is_repetition(name: str) -> bool:
    """Whether a setting distinguishes repetitions of one condition: a seed or a class draw.

    >>> is_repetition("source.seeds.init"), is_repetition("train.lr")
    (True, False)
    """
    parts = name.split(".")
    return parts[-1] == "class_draw" or "seeds" in parts[:-1]


@dataclass(frozen=True, eq=False)
class _Part:
    """The settings of one part of runs (their selection, their training, …), by full names.

    Attributes:
        values: as they are written.
        quiet: names of those at a default that no id mentions.
        contents: for names of places of files what lies there.
    """

    values: Mapping[str, Any]
    quiet: frozenset[str]
    contents: Mapping[str, str]

    @cached_property
    def identities(self) -> dict[str, Any]:
        """Settings with places of files replaced by what lies there."""
        found = {**self.values, **self.contents}
        return {k: v for k, v in found.items() if not k.endswith("weights.path")}

    @cached_property
    def condition(self) -> dict[str, Any]:
        """Of these the ones that a condition has."""
        found = self.identities.items()
        return {k: v for k, v in found if not is_repetition(k) and k not in self.quiet}

    @cached_property
    def texts(self) -> dict[str, str]:
        """Those of the condition as canonical JSON."""
        return _texts(self.condition)

    @cached_property
    def texts_of_recipe(self) -> dict[str, str]:
        """Of these the ones that do not name the task."""
        return {k: text for k, text in self.texts.items() if not _names_task(k)}

    @cached_property
    def task(self) -> dict[str, Any]:
        """What names the task, however many of its classes."""
        found = {k: v for k, v in self.identities.items() if _names_task(k)}
        return {k: v for k, v in found.items() if k.rpartition(".")[2] not in _COUNTS}

    @cached_property
    def selects(self) -> bool:
        """Whether it has a selection of images."""
        return any(name.endswith(".dataset") for name in self.values)


class Settings:
    """The settings of many runs; parts that runs share are walked once.

    Args:
        data_set: gives the fingerprint of the data set behind a selection with a `root`, so that
            two folders differ by what lies in them; with None by their paths.
    """

    def __init__(self, data_set: Callable[[DataSpec], str | None] | None = None) -> None:
        self._data_set = data_set
        self._parts: dict[tuple[Any, ...], tuple[Any, _Part]] = {}
        self._runs: dict[int, tuple[RunSpec, tuple[_Part, ...]]] = {}
        self._ids: dict[tuple[Any, ...], str] = {}
        self._unnamed: dict[tuple[int, ...], tuple[set[str], dict[str, str]]] = {}

    def of(self, spec: RunSpec) -> dict[str, Any]:
        """Every setting of a run by its name, parents included; see `settings`."""
        return _merged(self.parts(spec))

    def parts(self, spec: RunSpec) -> list[Mapping[str, Any]]:
        """The same in parts; one that several runs have is one object."""
        return [part.values for part in self._of(spec)]

    def condition(self, spec: RunSpec) -> str:
        """See `condition_id`."""
        parts = self._lasting(spec)
        return self._once("condition", parts, lambda: _digest(_merged(p.texts for p in parts)))

    def recipe(self, spec: RunSpec) -> str:
        """See `recipe_id`."""
        parts = self._lasting(spec)
        return self._once("recipe", parts, lambda: self._recipe(parts))

    def task(self, spec: RunSpec) -> str:
        """See `task_id`."""
        data = self._of(spec)[0]
        return self._once("task", [data], lambda: _digest(_texts(data.task)))

    def _lasting(self, spec: RunSpec) -> list[_Part]:
        """The parts that a condition has; runs that differ in their seeds alone share them."""
        return [part for part in self._of(spec) if part.texts]

    def _once(self, what: str, parts: list[_Part], find: Callable[[], str]) -> str:
        key = (what, *map(id, parts))
        if key not in self._ids:
            self._ids[key] = find()
        return self._ids[key]

    def _recipe(self, parts: list[_Part]) -> str:
        dropped, added = self._relative([part for part in parts if part.selects])
        found = _merged(part.texts_of_recipe for part in parts)
        return _digest({k: v for k, v in found.items() if k not in dropped} | added)

    def _relative(self, parts: list[_Part]) -> tuple[set[str], dict[str, str]]:
        """What a recipe does not say of sources that are chosen relative to the target.

        Args:
            parts: those with selections.

        Returns:
            Names of settings that are the target's own, and what stands for them.
        """
        key = tuple(map(id, parts))
        if key not in self._unnamed:
            every, found = (
                _merged(getattr(p, n) for p in parts) for n in ("identities", "condition")
            )
            target = {k[7:]: v for k, v in every.items() if k.startswith("target.")}
            dropped: set[str] = set()
            added: dict[str, str] = {}
            chosen = {k.removesuffix("dataset") for k in found if k.endswith(".dataset")}
            for prefix in chosen - {"target."}:
                if _relative(prefix, found, target):
                    counts = [n for n in _COUNTS if n != "source_n"]  # that is the source's own
                    names = [
                        "dataset",
                        "root",
                        *(f"classes.{n}" for n in ("root", *counts, "names")),
                    ]
                    # What the source has otherwise than its target is a treatment.
                    dropped |= {prefix + n for n in names if found.get(prefix + n) == target.get(n)}
                    added |= _texts({f"{prefix}relative": True})
            self._unnamed[key] = dropped, added
        return self._unnamed[key]

    def _of(self, spec: RunSpec) -> tuple[_Part, ...]:
        known = self._runs.get(id(spec))
        if known is None:
            known = self._runs[id(spec)] = (spec, tuple(self._walk(spec, "target.")))
        return known[1]

    def _walk(self, spec: RunSpec, data: str) -> Iterator[_Part]:
        """A run's parts; the prefix of its own selection is `data`."""
        parts: list[tuple[str, BaseModel]] = [
            (data, spec.data),
            ("model.", spec.model),
            ("method.", spec.method),
            ("train.", spec.train),
            ("seeds.", spec.seeds),
        ]
        for number, borrowed in enumerate(spec.borrow, start=1):
            parts.append((f"borrow{number if number > 1 else ''}.", borrowed))
        if spec.evaluate is not None:
            parts.append(("evaluate.", spec.evaluate))
        if not isinstance(spec.init, FromRun):
            parts.append(("weights.", spec.init))
        yield from (self._part(prefix, part) for prefix, part in parts)
        own = (spec.pattern, spec.allow_overlap, spec.borrow_pooled)
        named = dict(zip(("pattern", "allow_overlap", "borrow.pooled"), own, strict=True))
        quiet = frozenset(() if spec.borrow_pooled else ("borrow.pooled",))
        yield self._known(own, None, lambda: _Part(named, quiet, {}))
        for prefix, needed in (("source.", spec.parent), ("bank.", spec.bank)):
            if needed is not None:
                yield self._part(prefix, needed)
        if spec.parent is not None:
            yield self._known(
                ("weights.kind",), None, lambda: _Part({"weights.kind": "run"}, frozenset(), {})
            )

    def _part(self, prefix: str, part: BaseModel) -> _Part:
        """Of a part, or of a run that is needed, by names that begin with the prefix."""
        return self._known((prefix, id(part)), part, lambda: self._named(prefix, part))

    def _known(self, key: tuple[Any, ...], part: Any, make: Callable[[], _Part]) -> _Part:
        if key not in self._parts:
            self._parts[key] = (part, make())
        return self._parts[key][1]

    def _named(self, prefix: str, part: BaseModel) -> _Part:
        if isinstance(part, RunSpec):
            below = list(self._walk(part, ""))
            values = _merged(p.values for p in below)
            quiet = {name for p in below for name in p.quiet}
            contents = _merged(p.contents for p in below)
        else:
            values = dict(_flat("", part))
            quiet = set(_quiet(part, values))
            if prefix == "weights." and values.get("package"):
                values.pop("path")  # it is installed wherever this machine has its packages
            contents = {}
            data = part.data if isinstance(part, Borrowed) else part
            if isinstance(data, DataSpec) and data.root is not None and self._data_set is not None:
                contents = {"root": self._data_set(data) or data.root}
        return _Part(
            {prefix + name: value for name, value in values.items()},
            frozenset(prefix + name for name in quiet),
            {prefix + name: value for name, value in contents.items()},
        )


def settings(spec: RunSpec) -> dict[str, Any]:
    """Every setting of a run by its name in a grid; those of what it starts from are `source.…`.

    Returns:
        Names and values: `target.images_per_class`, `train.lr`, `method.name` and each option of
        the method, `source.images_per_class`, `source.train.lr`, `source.source.…` for a chain,
        `borrow.…`, `bank.…`, `weights.…`; seeds and class draws included.

    >>> from bench.specs.run import ModelSpec
    >>> run = RunSpec(data=DataSpec(dataset="digits"), model=ModelSpec(name="m"), pattern="R(1)")
    >>> found = settings(run)
    >>> found["target.dataset"], found["train.momentum"], found["seeds.order"]
    ('digits', 0.9, 0)
    """
    return Settings().of(spec)


def condition_id(spec: RunSpec) -> str:
    """The id of what is repeated: 16 hexadecimal digits over all settings but seeds and draws.

    >>> from bench.specs.run import ModelSpec, Seeds
    >>> run = RunSpec(data=DataSpec(dataset="digits"), model=ModelSpec(name="m"), pattern="R(1)")
    >>> condition_id(run) == condition_id(run.model_copy(update={"seeds": Seeds(order=1)}))
    True
    """
    return Settings().condition(spec)


def recipe_id(spec: RunSpec) -> str:
    """The id of a condition without what names its task; what a general claim compares."""
    return Settings().recipe(spec)


def task_id(spec: RunSpec) -> str:
    """The id of a target: data set, classes and class draw, however many of the classes."""
    return Settings().task(spec)


def differing(rows: Sequence[tuple[str, str, Sequence[Mapping[str, Any]]]]) -> list[str]:
    """The settings that must be shown for the rows of a leaderboard to differ.

    Args:
        rows: role, condition id and settings of each run, in parts (`Settings.parts`). Seeds of
            sources count too.

    Returns:
        Names of settings without a column of their own (`COLUMN_OF`) that have several values
        among runs of one role that have them at all. Where two conditions would still look alike,
        the first setting that only one of them has is added.
    """
    values: dict[tuple[str, str], set[Any]] = {}
    conditions: dict[tuple[str, str], Sequence[Mapping[str, Any]]] = {}
    seen: set[tuple[str, int, bool]] = set()
    for role, condition, parts in rows:
        whole = conditions.setdefault((role, condition), parts) is parts
        for part in parts:
            if (role, id(part), True) in seen or (role, id(part), whole) in seen:
                continue
            seen.add((role, id(part), whole))
            for name, value in part.items():
                if whole or is_repetition(name):
                    values.setdefault((role, name), set()).add((type(value), value))
    order = {name: place for place, name in enumerate(_names(conditions.values()))}
    shown = {name for (_, name), found in values.items() if len(found) > 1} - set(COLUMN_OF)
    looks: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    columns = [name for name in (*shown, *COLUMN_OF) if not is_repetition(name)]
    for (role, _), parts in conditions.items():
        found = _merged(parts)
        look = (role, *((type(value), value) for value in map(found.get, columns)))
        other = looks.setdefault(look, found)
        if other is not found:
            apart = sorted(other.keys() ^ found.keys(), key=order.__getitem__)
            only = [name for name in apart if {**other, **found}[name] not in (None, ())]
            if only and not shown & set(only):
                shown.add(only[0])
    return sorted(shown, key=order.__getitem__)


def _names(every: Iterable[Sequence[Mapping[str, Any]]]) -> dict[str, None]:
    """All names in the order in which they come first."""
    parts = {id(part): part for parts in every for part in parts}
    return dict.fromkeys(name for part in parts.values() for name in part)


def _merged(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in parts:
        found.update(part)
    return found


# --- walking the models --------------------------------------------------------------------------


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Leaves of nested models by dotted name; options written as pairs are leaves of their own."""
    if isinstance(value, Borrowed):
        yield from _flat(prefix, value.data)
        for name in type(value).model_fields:
            if name != "data":
                leaf = "seeds.draw" if name == "draw" else name
                yield from _flat(prefix + leaf, getattr(value, name))
    elif isinstance(value, BaseModel):
        start = f"{prefix}." if prefix and not prefix.endswith(".") else prefix
        for name in type(value).model_fields:
            leaf = getattr(value, name)
            if name == "options":
                names = {"method"} if type(value).__name__ == "MethodSpec" else set()
                before = start if names else f"{start}options."
                yield from ((f"{before}{key}", option) for key, option in leaf)
            else:
                yield from _flat(start + name, leaf)
    else:
        yield prefix, value


def _quiet(part: BaseModel, values: Mapping[str, Any]) -> Iterator[str]:
    """Fields that joined later and are at the default that they had unwritten before."""
    data = part.data if isinstance(part, Borrowed) else part
    identity = getattr(data, "identity", None)
    if identity is None:
        return
    named = identity()
    for name, field in type(data).model_fields.items():
        if name not in named and getattr(data, name) == field.default:
            yield from (leaf for leaf in values if leaf == name or leaf.startswith(f"{name}."))


def _names_task(name: str) -> bool:
    starts = ("target.classes.", "target.options.")
    return name in ("target.dataset", "target.root") or name.startswith(starts)


def _relative(prefix: str, found: Mapping[str, Any], target: Mapping[str, Any]) -> bool:
    """Whether a selection is chosen relative to the target, or is the target's own."""
    same = all(found.get(f"{prefix}{name}") == target.get(name) for name in ("dataset", "root"))
    if not same:
        return False
    if found.get(f"{prefix}classes.recipe") in _RELATIVE:
        return True
    classes = {k: v for k, v in target.items() if k.startswith("classes.") and "draw" not in k}
    return all(found.get(f"{prefix}{name}") == value for name, value in classes.items())


def _texts(found: Mapping[str, Any]) -> dict[str, str]:
    """Each setting as canonical JSON."""
    return {k: f"{canonical_json(k)}:{canonical_json(v)}" for k, v in found.items()}


def _digest(texts: Mapping[str, str]) -> str:
    """Of settings as canonical JSON by name: that of the whole is made of theirs."""
    text = ",".join([texts[name] for name in sorted(texts)])
    return hashlib.sha256(f"{{{text}}}".encode()).hexdigest()[:_DIGITS]
