"""What is equal: every field of a run's spec makes conditions of their own, seeds do not."""

from __future__ import annotations

import hashlib
import typing
from collections.abc import Callable, Iterator, Sequence
from types import UnionType
from typing import Any, Literal

import hypothesis
import hypothesis.strategies as st
import pytest
from hypothesis import given
from pydantic import BaseModel

from bench.results.aggregate import aggregate, conditions
from bench.results.conditions import (
    COLUMN_OF,
    Settings,
    condition_id,
    differing,
    is_repetition,
    recipe_id,
    settings,
    task_id,
)
from bench.results.leaderboard import describe
from bench.specs.data import Borrowed, DataSpec, ListedClasses, NearFarClasses, UnderSynset
from bench.specs.evaluation import EvaluateSpec, VerificationSpec
from bench.specs.planned import DataFacts, Plan, PlannedRun
from bench.specs.run import (
    FromFile,
    FromRun,
    FromTimm,
    MethodSpec,
    ModelSpec,
    RunSpec,
    Seeds,
    TrainSpec,
    canonical_json,
)

DATA = DataSpec(dataset="tiny-imagenet", classes=NearFarClasses(root="animal.n.01", side="target"))
NEAR = DATA.model_copy(update={"classes": NearFarClasses(root="animal.n.01", side="near")})
SOURCE = RunSpec(data=NEAR, model=ModelSpec(name="narrow8_32"), pattern="R(1-8)")
BANK = SOURCE.model_copy(update={"seeds": Seeds(draw=7, init=7, order=7)})
BASE = RunSpec(
    data=DATA,
    model=ModelSpec(name="narrow8_32"),
    pattern="T(1-7)R(8)",
    init=FromRun(run=SOURCE),
    method=MethodSpec(name="selective", options=(("adaptive", True), ("k0", 100))),
    borrow=(Borrowed(data=NEAR),),
    evaluate=EvaluateSpec(verification=VerificationSpec(identities=5)),
    bank=BANK,
)
LISTED = ListedClasses(names=("a", "b"))
SEEDS = {"draw", "init", "order", "class_draw"}
OTHERS: dict[str, Any] = {
    "pattern": "T(1-6)R(7-8)",
    "dataset": "digits",
    "name": "other",
    "root": "living_thing.n.01",
    "options": (("partial", True),),
    "train_where": (("expression", ("sad",)),),
    "where": (("expression", ("sad",)),),
    "views": ("whole", "box"),
    "identities": 6,
    "resize": 64,
    "categories": 0.5,
    "images": 0.5,
    "borrow": (Borrowed(data=NEAR),),
    "bank": BANK,
    "evaluate": EvaluateSpec(verification=VerificationSpec()),
}


def _paths(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The place of every field below a model, found by walking it."""
    for name in type(value).model_fields:
        below = getattr(value, name)
        if isinstance(below, BaseModel):
            yield from _paths(below, (*path, name))
        elif isinstance(below, tuple) and below and isinstance(below[0], BaseModel):
            yield from _paths(below[0], (*path, name, 0))
        else:
            yield (*path, name)


def _get(value: Any, path: tuple[str | int, ...]) -> Any:
    for name in path:
        value = value[name] if isinstance(name, int) else getattr(value, name)
    return value


def _put(value: Any, path: tuple[str | int, ...], new: Any) -> Any:
    """A copy of nested models with one field changed, without the checks of whole specs."""
    name, *rest = path
    if isinstance(name, int):
        return tuple(_put(v, tuple(rest), new) if i == name else v for i, v in enumerate(value))
    below = _put(getattr(value, name), tuple(rest), new) if rest else new
    return value.model_copy(update={name: below})


def _another(model: type[BaseModel], name: str, old: Any) -> Any:
    """A value of the field that is not the one it has."""
    if name in OTHERS:
        return OTHERS[name]
    kinds = [model.model_fields[name].annotation]
    while kinds:
        kind = kinds.pop()
        if typing.get_origin(kind) is Literal:
            others = [value for value in typing.get_args(kind) if value != old]
            if others:
                return others[0]
        elif isinstance(kind, UnionType) or typing.get_origin(kind) in (typing.Annotated,):
            kinds += typing.get_args(kind)
    if isinstance(old, bool):
        return not old
    if isinstance(old, int):
        return old + 1
    if isinstance(old, float):
        return old / 2 + 0.25
    return 3 if old is None else f"{old}x"


PATHS = list(_paths(BASE))
FIXED = {("init", "kind"), ("init", "run", "init", "kind"), ("bank", "init", "kind")}
FIXED |= {path for path in PATHS if path[-1] == "recipe"}
"""Discriminators of unions; other members of the unions have tests of their own below."""
CASES = [path for path in PATHS if path not in FIXED]


def _plan(*specs: RunSpec) -> Plan:
    """The plan of some runs, as if their images were there."""
    runs: dict[str, PlannedRun] = {}

    def facts(spec: RunSpec) -> DataFacts:
        text = spec.data.model_dump_json()
        return DataFacts(text, ("a", "b"), "k", 10, 10, dataset_fingerprint="", available_images=20)

    for number, spec in enumerate(specs):
        runs[f"p{number}"] = PlannedRun(f"p{number}", SOURCE, None, (), facts(SOURCE))
        runs[str(number)] = PlannedRun(str(number), spec, f"p{number}", ("e",), facts(spec))
    return Plan("g", runs, len(specs))


def _target_rows(*specs: RunSpec) -> list[dict[str, Any]]:
    rows = [row for row in describe(_plan(*specs)).values() if row["role"] == "finetune"]
    return [row | {"status": "done", "top1_accuracy": 0.5} for row in rows]


@pytest.mark.parametrize("path", CASES, ids=lambda path: ".".join(map(str, path)))
def test_every_field_of_a_spec_makes_two_conditions_that_a_column_tells_apart(
    path: tuple[str | int, ...],
) -> None:
    model = type(_get(BASE, path[:-1]))
    new = _put(BASE, path, _another(model, str(path[-1]), _get(BASE, path)))
    assert _get(new, path) != _get(BASE, path)
    rows = _target_rows(BASE, new)
    differ = {name for name in rows[0] if rows[0][name] != rows[1][name]}
    if path[-1] in SEEDS:
        assert condition_id(new) == condition_id(BASE)
        assert len(conditions(rows)) == 1
        assert any(is_repetition(name) or name.startswith("seed_") for name in differ - {"run_id"})
        return
    assert condition_id(new) != condition_id(BASE)
    assert len(conditions(rows)) == 2
    assert differ - {"run_id", "parent_id", "condition_id", "recipe_id", "task_id"}


def test_the_walk_reaches_parents_and_everything_borrowed() -> None:
    found = {".".join(map(str, path)) for path in PATHS}
    assert {
        "train.momentum",
        "init.run.train.momentum",
        "init.run.data.images_per_class",
        "borrow.0.data.classes.source_n",
        "bank.train.lr",
        "evaluate.verification.identities",
        "data.classes.branches",
        "seeds.draw",
    } <= found
    assert len(CASES) > 200


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"classes": LISTED}, {"classes": LISTED.model_copy(update={"names": ("a", "c")})}),
        ({"classes": UnderSynset(synset="a")}, {"classes": UnderSynset(synset="b")}),
        ({"classes": UnderSynset(synset="a")}, {"classes": DATA.classes}),
        ({"dataset": "folder", "root": "one"}, {"dataset": "folder", "root": "two"}),
    ],
)
def test_other_classes_and_folders_are_other_tasks(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    specs = [BASE.model_copy(update={"data": DATA.model_copy(update=u)}) for u in (one, other)]
    assert condition_id(specs[0]) != condition_id(specs[1])
    assert task_id(specs[0]) != task_id(specs[1])
    assert len(conditions(_target_rows(*specs))) == 2


def test_starts_of_other_kinds_are_told_apart() -> None:
    starts = [
        FromTimm(),
        FromTimm(tag="a1_in1k"),
        FromFile(path="x", sha256="0" * 64),
        FromFile(path="x", sha256="1" * 64),
        FromRun(run=SOURCE),
    ]
    specs = [BASE.model_copy(update={"init": init}) for init in starts]
    rows = _target_rows(*specs)
    looks = {
        tuple((k, v) for k, v in row.items() if k not in ("run_id", "parent_id", "condition_id"))
        for row in [{k: str(v) for k, v in row.items() if k != "recipe_id"} for row in rows]
    }
    assert len(looks) == len({condition_id(spec) for spec in specs}) == 5


def test_a_place_of_files_is_no_setting_but_its_content_is() -> None:
    moved = FromFile(path="elsewhere", sha256="0" * 64)
    here = FromFile(path="here", sha256="0" * 64)
    one, other = (BASE.model_copy(update={"init": init}) for init in (moved, here))
    assert condition_id(one) == condition_id(other)


def test_two_folders_with_the_same_images_are_one_task() -> None:
    def rows(*fingerprints: str) -> list[dict[str, Any]]:
        plan = _plan(
            *(
                BASE.model_copy(
                    update={"data": DATA.model_copy(update={"dataset": "folder", "root": root})}
                )
                for root in ("one", "two")
            )
        )
        runs = {}
        for key, run in plan.runs.items():
            facts = run.facts
            if run.role == "finetune":
                print_ = fingerprints[int(key)]
                facts = DataFacts(**{**facts.__dict__, "dataset_fingerprint": print_})
            runs[key] = PlannedRun(**{**run.__dict__, "facts": facts})
        found = describe(Plan("g", runs, 2))
        return [row for row in found.values() if row["role"] == "finetune"]

    same, other = rows("x", "x"), rows("x", "y")
    assert len({row["condition_id"] for row in same}) == len({row["task_id"] for row in same}) == 1
    assert len({row["task_id"] for row in other}) == 2
    assert len({row["condition_id"] for row in other}) == 2


def test_nested_subsets_of_one_draw_are_one_task_but_two_conditions() -> None:
    ten = DATA.model_copy(update={"classes": DATA.classes.model_copy(update={"take": 10})})
    few = BASE.model_copy(update={"data": ten})
    assert task_id(few) == task_id(BASE)
    assert condition_id(few) != condition_id(BASE)


def test_a_recipe_is_the_same_for_unlike_targets_and_their_own_sources() -> None:
    def on(root: str, draw: int = 0, **train: Any) -> RunSpec:
        classes = NearFarClasses(root=root, side="target", class_draw=draw)
        near = NearFarClasses(root=root, side="near", class_draw=draw, source_n=40)
        data = DATA.model_copy(update={"classes": classes})
        source = SOURCE.model_copy(
            update={"data": DATA.model_copy(update={"classes": near, "images_per_class": 50})}
        )
        return BASE.model_copy(
            update={
                "data": data,
                "init": FromRun(run=source),
                "borrow": (),
                "bank": None,
                "train": TrainSpec(**train),
            }
        )

    animals, things = on("animal.n.01"), on("instrumentality.n.03", draw=3)
    assert recipe_id(animals) == recipe_id(things)
    assert condition_id(animals) != condition_id(things)
    assert task_id(animals) != task_id(things)
    assert recipe_id(on("animal.n.01", momentum=0.5)) != recipe_id(animals)
    far = animals.parent.data.classes.model_copy(update={"side": "far"})  # type: ignore[union-attr]
    from_far = _put(animals, ("init", "run", "data", "classes"), far)
    assert recipe_id(from_far) != recipe_id(animals)


def test_condition_ids_do_not_know_fields_that_joined_later() -> None:
    """Written-out defaults of later fields change no id, as they change no run id."""
    names = set(settings(BASE))
    assert "target.resize" in names
    later = BASE.model_copy(update={"data": DATA.model_copy(update={"resize": None})})
    assert condition_id(later) == condition_id(BASE) == condition_id(BASE.model_copy(deep=True))


def test_settings_that_have_a_column_are_not_shown_twice() -> None:
    rows = _target_rows(BASE, _put(BASE, ("train", "lr"), 0.5))
    assert "train.lr" not in rows[0]
    assert set(COLUMN_OF) & set(rows[0]) == {"pattern"}
    same = Settings().parts(BASE)
    assert differing([("finetune", "a", same), ("finetune", "a", same)]) == []


def test_momentum_and_optimizers_are_rows_of_their_own() -> None:
    """The faults that were seen: two rates of momentum averaged, a diverged optimiser hidden."""
    slow, fast = (_put(BASE, ("train", "momentum"), m) for m in (0.0, 0.9))
    rows = _target_rows(
        *(_put(spec, ("seeds", "order"), seed) for spec in (slow, fast) for seed in (0, 1))
    )
    found = aggregate(rows)
    assert [(row["train.momentum"], row["n"]) for row in found] == [(0.0, 2), (0.9, 2)]
    adamw = _put(BASE, ("train", "optimizer"), "adamw")
    rows = _target_rows(BASE, adamw)
    rows[1]["status"] = "diverged"
    found = {row["train.optimizer"]: row for row in conditions(rows)}
    assert found["sgd"]["n_diverged"] == 0
    assert found["adamw"]["n_diverged"] == 1
    assert found["adamw"]["top1_accuracy_mean"] == 0.5  # two classes: chance


def test_where_a_package_lies_is_no_setting_but_where_a_file_lies_is() -> None:
    def of(path: str, package: str | None) -> RunSpec:
        weights = FromFile(path=path, sha256="0" * 64, package=package)
        data = DataSpec(dataset="d", classes=ListedClasses(names=("a", "b")))
        return RunSpec(data=data, model=ModelSpec(name="m"), pattern="T(1-7)R(8)", init=weights)

    here, there = (of(f"/{place}/lite0.pth", "efficientnet-lite0") for place in ("a", "b"))
    assert "weights.path" not in settings(here)
    assert settings(here) == settings(there)
    assert settings(here)["weights.package"] == "efficientnet-lite0"
    assert settings(of("/a/mine.pth", None))["weights.path"] == "/a/mine.pth"


# --- literal twins -------------------------------------------------------------------------------


def _parts(spec: RunSpec, prefix: str = "") -> Iterator[tuple[str, BaseModel]]:
    """Every model in a spec with the prefix of its settings."""
    yield prefix or "target.", spec.data
    for number, borrowed in enumerate(spec.borrow, start=1):
        yield f"{prefix}borrow{number if number > 1 else ''}.", borrowed.data
    for name in ("model", "method", "train", "seeds"):
        yield f"{prefix}{name}.", getattr(spec, name)
    for below, needed in (("source.", spec.parent), ("bank.", spec.bank)):
        if needed is not None:
            yield from _parts(needed, prefix + below)


def _not_pooled(spec: RunSpec, prefix: str = "") -> Iterator[str]:
    if not spec.borrow_pooled:
        yield f"{prefix}borrow.pooled"
    for below, needed in (("source.", spec.parent), ("bank.", spec.bank)):
        if needed is not None:
            yield from _not_pooled(needed, prefix + below)


def _literal_ids(spec: RunSpec, content: Callable[[DataSpec], str]) -> tuple[str, str, str]:
    """Condition, recipe and task from the whole dictionary of settings, one run at a time."""
    found, quiet = settings(spec), set(_not_pooled(spec))
    for prefix, part in _parts(spec):
        if isinstance(part, DataSpec) and part.root is not None:
            found[f"{prefix}root"] = content(part)
        if isinstance(part, DataSpec | TrainSpec):
            for name, field in type(part).model_fields.items():
                if name not in part.identity() and getattr(part, name) == field.default:
                    quiet |= {k for k in found if f"{k}.".startswith(f"{prefix}{name}.")}
    found = {k: v for k, v in found.items() if not k.endswith("weights.path")}
    condition = {k: v for k, v in found.items() if not is_repetition(k) and k not in quiet}
    counts = ("take", "n", "target_n", "source_n")

    def names_task(name: str) -> bool:
        starts = ("target.classes.", "target.options.")
        return name in ("target.dataset", "target.root") or name.startswith(starts)

    task = {k: v for k, v in found.items() if names_task(k) and k.split(".")[-1] not in counts}
    target = {k[7:]: v for k, v in found.items() if k.startswith("target.")}
    recipe = {k: v for k, v in condition.items() if not names_task(k)}
    for prefix in [k.removesuffix("dataset") for k in recipe if k.endswith(".dataset")]:
        chosen = condition.get(f"{prefix}classes.recipe") in ("near_far", "categories", "half")
        classes = {k: v for k, v in target.items() if k.startswith("classes.") and "draw" not in k}
        own = all(condition.get(prefix + k) == v for k, v in classes.items())
        same = all(condition.get(prefix + k) == target.get(k) for k in ("dataset", "root"))
        if same and (chosen or own):
            parts = ("root", "take", "n", "target_n", "names")
            for name in ("dataset", "root", *(f"classes.{part}" for part in parts)):
                if condition.get(prefix + name) == target.get(name):
                    recipe.pop(prefix + name, None)
            recipe[f"{prefix}relative"] = True
    digests = (hashlib.sha256(canonical_json(d).encode()).hexdigest() for d in (condition, recipe))
    return (
        *(digest[:16] for digest in digests),
        hashlib.sha256(  # type: ignore[return-value]
            canonical_json(task).encode()
        ).hexdigest()[:16],
    )


def _literal_differing(rows: Sequence[tuple[str, str, dict[str, Any]]]) -> list[str]:
    """`differing` by looking at every setting of every row."""
    firsts: dict[tuple[str, str], dict[str, Any]] = {}
    values: dict[tuple[str, str], set[Any]] = {}
    for role, condition, found in rows:
        first = firsts.setdefault((role, condition), found) is found
        for name, value in found.items():
            if first or is_repetition(name):
                values.setdefault((role, name), set()).add((type(value), value))
    order = list(dict.fromkeys(name for found in firsts.values() for name in found))
    shown = {name for (_, name), seen in values.items() if len(seen) > 1} - set(COLUMN_OF)
    columns = [name for name in order if name in shown | set(COLUMN_OF) and not is_repetition(name)]
    looks: list[tuple[tuple[str, Any], dict[str, Any]]] = []
    for (role, _), found in firsts.items():
        look = (role, [(type(found.get(n)), found.get(n)) for n in columns])
        alike = [other for seen, other in looks if seen == look]
        if not alike:
            looks.append((look, found))
            continue
        apart = [n for n in order if (n in found) != (n in alike[0])]
        only = [n for n in apart if {**alike[0], **found}[n] not in (None, ())]
        if only and not shown & set(only):
            shown.add(only[0])
    return [name for name in order if name in shown]


STARTS: tuple[Any, ...] = (
    FromRun(run=SOURCE),
    FromRun(run=BANK),
    FromTimm(tag="x"),
    FromFile(path="/a/lite0.pth", sha256="0" * 64, package="efficientnet-lite0"),
    FromFile(path="/b/mine.pth", sha256="1" * 64),
)


@st.composite
def _specs(draw: st.DrawFn) -> list[RunSpec]:
    """Some runs with a few fields changed; parts that are not changed are shared."""
    specs = [BASE]
    for _ in range(draw(st.integers(1, 7))):
        spec = draw(st.sampled_from(specs))
        if draw(st.booleans()):
            spec = spec.model_copy(update={"init": draw(st.sampled_from(STARTS))})
        for path in draw(st.lists(st.sampled_from(CASES), max_size=3)):
            try:
                old = _get(spec, path)
                new = _another(type(_get(spec, path[:-1])), str(path[-1]), old)
            except (AttributeError, IndexError, TypeError):  # a change before has taken it away
                continue
            spec = _put(spec, path, new)
        specs.append(spec)
    return draw(st.permutations(specs))


@hypothesis.settings(deadline=None, max_examples=80)
@given(specs=_specs())
def test_ids_and_columns_are_those_of_whole_dictionaries(specs: list[RunSpec]) -> None:
    """Shared parts are walked, written and hashed once; the literal twin does it for each run."""
    known = Settings(lambda data: f"content of {str(data.root)[-1]}")
    for spec in specs:
        ids = known.condition(spec), known.recipe(spec), known.task(spec)
        assert ids == _literal_ids(spec, lambda data: f"content of {str(data.root)[-1]}")
        assert list(known.of(spec).items()) == list(settings(spec).items())
    roles = ["source" if n % 3 == 2 else "finetune" for n in range(len(specs))]
    parts = [
        (role, known.condition(s), known.parts(s)) for role, s in zip(roles, specs, strict=True)
    ]
    literal = [
        (role, known.condition(s), settings(s)) for role, s in zip(roles, specs, strict=True)
    ]
    assert differing(parts) == _literal_differing(literal)
