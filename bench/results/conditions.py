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
from collections.abc import Callable, Iterator, Mapping, Sequence
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


class Settings:
    """The settings of many runs; parts that runs share are walked once.

    Args:
        data_set: gives the fingerprint of the data set behind a selection with a `root`, so that
            two folders differ by what lies in them; with None by their paths.
    """

    def __init__(self, data_set: Callable[[DataSpec], str | None] | None = None) -> None:
        self._data_set = data_set
        self._parts: dict[tuple[str, int], tuple[BaseModel, dict[str, Any], frozenset[str]]] = {}
        self._runs: dict[int, tuple[RunSpec, dict[str, Any], frozenset[str]]] = {}
        self._ids: dict[tuple[Any, ...], tuple[RunSpec, str]] = {}

    def of(self, spec: RunSpec) -> dict[str, Any]:
        """Every setting of a run by its name, parents included; see `settings`."""
        return self._run(spec, "target.")[0]

    def condition(self, spec: RunSpec) -> str:
        """See `condition_id`."""
        return self._once("condition", spec, lambda: _digest(self._condition(spec)))

    def recipe(self, spec: RunSpec) -> str:
        """See `recipe_id`."""
        return self._once("recipe", spec, lambda: self._recipe(spec))

    def task(self, spec: RunSpec) -> str:
        """See `task_id`."""
        return self._once("task", spec, lambda: self._task(spec))

    def _once(self, what: str, spec: RunSpec, find: Callable[[], str]) -> str:
        """Found once for runs that share all parts but their seeds."""
        parts = tuple(id(v) for k, v in spec.__dict__.items() if k not in ("seeds", "pattern"))
        key = (what, spec.pattern, *parts)
        if key not in self._ids:
            self._ids[key] = (spec, find())
        return self._ids[key][1]

    def _recipe(self, spec: RunSpec) -> str:
        found = self._condition(spec)
        target = {k[7:]: v for k, v in self._identities(spec).items() if k.startswith("target.")}
        kept = {k: v for k, v in found.items() if not _names_task(k)}
        for prefix in sorted({k.removesuffix("dataset") for k in kept if k.endswith(".dataset")}):
            if _relative(prefix, found, target):
                counts = [n for n in _COUNTS if n != "source_n"]  # that is the source's own
                drop = ["dataset", "root", *(f"classes.{n}" for n in ("root", *counts, "names"))]
                # What the source has otherwise than its target is a treatment.
                same = {prefix + n for n in drop if found.get(prefix + n) == target.get(n)}
                kept = {k: v for k, v in kept.items() if k not in same}
                kept[f"{prefix}relative"] = True
        return _digest(kept)

    def _task(self, spec: RunSpec) -> str:
        found = self._identities(spec)
        naming = {k: v for k, v in found.items() if _names_task(k)}
        return _digest({k: v for k, v in naming.items() if k.rpartition(".")[2] not in _COUNTS})

    def _condition(self, spec: RunSpec) -> dict[str, Any]:
        quiet = self._run(spec, "target.")[1]
        return {
            name: value
            for name, value in self._identities(spec).items()
            if not is_repetition(name) and name not in quiet
        }

    def _identities(self, spec: RunSpec) -> dict[str, Any]:
        """Settings with places of files replaced by what lies there."""
        found = dict(self.of(spec))
        for prefix, data in _selections(spec):
            if data.root is not None and self._data_set is not None:
                found[f"{prefix}root"] = self._data_set(data) or data.root
        return {k: v for k, v in found.items() if not k.endswith("weights.path")}

    def _run(self, spec: RunSpec, data: str) -> tuple[dict[str, Any], frozenset[str]]:
        """A run's settings, and the names of those at a default that no id mentions."""
        known = self._runs.get(id(spec)) if data == "target." else None
        if known is not None:
            return known[1], known[2]
        found: dict[str, Any] = {}
        quiet: set[str] = set()
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
        for prefix, part in parts:
            values, silent = self._part(prefix, part)
            found |= values
            quiet |= silent
        if found.get("weights.package"):  # it is installed wherever this machine has its packages
            found.pop("weights.path")
        found |= {"pattern": spec.pattern, "allow_overlap": spec.allow_overlap}
        found["borrow.pooled"] = spec.borrow_pooled
        quiet |= set() if spec.borrow_pooled else {"borrow.pooled"}
        for prefix, needed in (("source.", spec.parent), ("bank.", spec.bank)):
            if needed is not None:
                values, silent = self._part(prefix, needed)
                found |= values
                quiet |= silent
        if spec.parent is not None:
            found["weights.kind"] = "run"
        result = found, frozenset(quiet)
        if data == "target.":
            self._runs[id(spec)] = (spec, *result)
        return result

    def _part(self, prefix: str, part: BaseModel) -> tuple[dict[str, Any], frozenset[str]]:
        """Of a part, or of a run that is needed, by names that begin with the prefix."""
        known = self._parts.get((prefix, id(part)))
        if known is None:
            if isinstance(part, RunSpec):
                values, silent = self._run(part, "")
            else:
                values = dict(_flat("", part))
                silent = frozenset(_quiet(part, values))
            named = {prefix + name: value for name, value in values.items()}
            known = part, named, frozenset(prefix + name for name in silent)
            self._parts[prefix, id(part)] = known
        return known[1], known[2]


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


def differing(rows: Sequence[tuple[str, str, Mapping[str, Any]]]) -> list[str]:
    """The settings that must be shown for the rows of a leaderboard to differ.

    Args:
        rows: role, condition id and settings of each run. Seeds of sources count too.

    Returns:
        Names of settings without a column of their own (`COLUMN_OF`) that have several values
        among runs of one role that have them at all. Where two conditions would still look alike,
        the first setting that only one of them has is added.
    """
    values: dict[tuple[str, str], set[Any]] = {}
    conditions: dict[tuple[str, str], Mapping[str, Any]] = {}
    repeated: dict[tuple[str, str], list[str]] = {}
    for role, condition, found in rows:
        first = conditions.setdefault((role, condition), found) is found
        if first:
            repeated[role, condition] = [name for name in found if is_repetition(name)]
        for name in found if first else repeated[role, condition]:
            if name in found:
                values.setdefault((role, name), set()).add((type(found[name]), found[name]))
    order = {name: place for place, name in enumerate(_names(rows))}
    shown = {name for (_, name), seen in values.items() if len(seen) > 1} - set(COLUMN_OF)
    looks: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    columns = [*shown, *COLUMN_OF]
    for (role, _), found in conditions.items():
        values_of = [found.get(n) for n in columns if not is_repetition(n)]
        look = (role, *((type(value), value) for value in values_of))
        other = looks.setdefault(look, found)
        apart = sorted(other.keys() ^ found.keys(), key=order.__getitem__)
        seen = [name for name in apart if {**other, **found}[name] not in (None, ())]
        if other is not found and seen and not shown & set(seen):
            shown.add(seen[0])
    return sorted(shown, key=order.__getitem__)


def _names(rows: Sequence[tuple[str, str, Mapping[str, Any]]]) -> dict[str, None]:
    names: dict[str, None] = {}
    for _, _, found in rows:
        if not found.keys() <= names.keys():
            names |= dict.fromkeys(found)
    return names


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


def _selections(spec: RunSpec, prefix: str = "") -> Iterator[tuple[str, DataSpec]]:
    """Every selection in a spec with the prefix of its settings."""
    yield prefix or "target.", spec.data
    for number, borrowed in enumerate(spec.borrow, start=1):
        yield f"{prefix}borrow{number if number > 1 else ''}.", borrowed.data
    if spec.parent is not None:
        yield from _selections(spec.parent, f"{prefix}source.")
    if spec.bank is not None:
        yield from _selections(spec.bank, f"{prefix}bank.")


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


def _digest(found: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(dict(found)).encode()).hexdigest()[:_DIGITS]
