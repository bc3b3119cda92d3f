"""One cell of a grid, as its author writes it, turned into a run spec.

Sections are merged as plain mappings first, then each is validated once; cells that share a
section share the validated object, so a grid of a hundred thousand cells stays cheap.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from bench.grid.borrow import is_pool, read_borrow
from bench.grid.errors import CellError, at_key, below, cell_error, known_keys
from bench.grid.pattern import read_pattern
from bench.grid.validate import check_draws, check_sizes, check_training
from bench.grid.weights import WeightsReader
from bench.methods import check_run, options_of, resolved
from bench.methods.averaging import soup_of_its_first
from bench.models.depths import depth_of
from bench.models.published import check_size
from bench.specs.data import Borrowed, DataSpec
from bench.specs.evaluation import EvaluateSpec
from bench.specs.run import FromRun, Init, MethodSpec, ModelSpec, RunSpec, Scratch, Seeds, TrainSpec

SECTIONS = {
    "target": "the user's data: dataset, classes, image_size, images_per_class, …",
    "source": "what the network learned from before: the same keys as target, a name, none or self",
    "parent": "a whole run to start from, for chains",
    "weights": "pretrained weights instead of a source: {timm: TAG} or {file: PATH, sha256: …}",
    "borrow": "data trained on beside the target: parent, a name, a mapping, or a list of them",
    "model": "a network's name, or {name, filler, drop_rate}",
    "pattern": "T copied and tuned, F copied and frozen, R random; or tune, freeze, scratch",
    "method": "how the loss is built: a name, or {name, …options}",
    "train": "optimiser, learning rate, epochs, …",
    "pretrain": "the same for the source's own training",
    "seed": "one number for draw of images, initialisation and order",
    "seeds": "the three separately: {draw, init, order}",
    "source_seed": "the seed of the source's own training",
    "class_draw": "the draw of the classes, in source and target alike",
    "bank": "a whole run whose kernels describe images, for method.bank: kernels (GE-1)",
    "evaluate": "what besides the test images: {verification: {identities: N}}",
    "allow_overlap": "true lets source and target share classes",
}

_KEPT = ("image_size", "resize", "stored_as", "on_short", "on_corrupt")
_INHERITED = (*_KEPT, "dataset", "root", "options", "val_per_class", "test_per_class", "test_from")
Model = TypeVar("Model")
Section = TypeVar("Section", bound=BaseModel)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid over `base`, mappings into mappings; a class recipe of another kind replaces.

    >>> merge({"train": {"lr": 0.1, "epochs": 3}}, {"train": {"lr": 0.2}})
    {'train': {'lr': 0.2, 'epochs': 3}}
    """
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        both = isinstance(value, Mapping) and isinstance(old, Mapping)
        other_kind = both and any(
            tag in value and value[tag] != old.get(tag)  # type: ignore[union-attr]
            for tag in ("recipe", "dataset")
            if tag in value
        )
        result[key] = merge(old, value) if both and not other_kind else value  # type: ignore[arg-type]
    return result


class RunBuilder:
    """Builds run specs from cells; remembers the sections it has validated."""

    def __init__(self) -> None:
        self._weights = WeightsReader()
        self._sections: dict[tuple[str, str], Any] = {}

    def build(self, cell: Mapping[str, Any]) -> RunSpec:
        """The run that a cell describes.

        Raises:
            CellError: naming the key that is wrong.
        """
        try:
            spec = self._build(cell)
        except CellError as error:
            if "class_draw" in cell and error.key[-1:] == ("class_draw",):
                raise error.at(("class_draw",)) from None
            raise
        if "class_draw" in cell:
            check_draws(spec)
        return spec

    def _build(self, cell: Mapping[str, Any]) -> RunSpec:
        self._known_keys(cell)
        target = self._target(cell)
        model = self._model(cell.get("model"))
        data = self._section(DataSpec, self._drawn(target, cell), "target")
        init = self._init(cell, target, model)
        spec = self._assemble(
            cell,
            data=data,
            model=model,
            pattern=self._pattern(cell.get("pattern"), model),
            init=init,
            seeds=self.seeds(cell),
            bank=self._bank(cell),
            borrow=self._borrow(cell, target, init, data.image_size),
            borrow_pooled=is_pool(cell.get("borrow")),
        )
        check_training(spec)
        self._check_size(model, data.image_size)
        with at_key("method"):
            check_run(spec)
        check_sizes(spec)
        return self._soup(spec) if spec.method.over else spec

    @staticmethod
    def _soup(spec: RunSpec) -> RunSpec:
        """A soup whose runs are looked at as those of cells are."""
        with at_key("method"):
            for one in spec.ingredients:
                check_training(one)
                check_run(one)
            return soup_of_its_first(spec)

    def _assemble(self, cell: Mapping[str, Any], **parts: Any) -> RunSpec:
        try:
            return RunSpec(
                method=self._method(cell.get("method", "plain")),
                train=self._section(TrainSpec, cell.get("train", {}), "train"),
                allow_overlap=cell.get("allow_overlap", False),
                evaluate=self._section(EvaluateSpec, cell["evaluate"], "evaluate")
                if cell.get("evaluate") not in (None, "none", {})
                else None,
                **parts,
            )
        except ValidationError as error:
            found = cell_error(error, ())  # of several sections together: shown at the likeliest
            raise (found if found.key else found.at(("pattern",))) from None

    # --- sections ---

    def _known_keys(self, cell: Mapping[str, Any]) -> None:
        for key in cell:
            if key not in SECTIONS:
                raise CellError(
                    (key,),
                    f"unknown key {key!r}",
                    f"write {key.split('.')[0]}: {{…}}; dots are for set, axes, zip and include"
                    if key.split(".")[0] in SECTIONS
                    else known_keys(key, SECTIONS),
                )
        if cell.get("parent") is not None and not isinstance(cell["parent"], Mapping):
            raise CellError(
                ("parent",),
                f"parent is {cell['parent']!r}: expected a mapping",
                "a parent is a whole run, {source: near, pattern: freeze}; source: takes a name",
            )
        given = [
            key for key in ("source", "parent", "weights") if cell.get(key) not in (None, "none")
        ]
        if len(given) > 1:
            raise CellError((given[1],), f"{' and '.join(given)} exclude each other", "keep one")

    def _target(self, cell: Mapping[str, Any]) -> Mapping[str, Any]:
        value = cell.get("target")
        if value is None:
            raise CellError(("target",), "target is missing", f"target: {SECTIONS['target']}")
        if not isinstance(value, Mapping):
            text = f"target: expected a mapping, found {value!r}"
            raise CellError(("target",), text, SECTIONS["target"])
        return value

    def _once(self, name: str, raw: Any, make: Callable[[], Model]) -> Model:
        """What `make` gives; made once for equal parts of cells."""
        memo = (name, json.dumps(raw, sort_keys=True, default=str))
        if memo not in self._sections:
            self._sections[memo] = make()
        return self._sections[memo]  # type: ignore[no-any-return]

    def _section(self, kind: type[Section], raw: Any, name: str) -> Section:
        if not isinstance(raw, Mapping):
            raise CellError((name,), f"{name}: expected a mapping, found {raw!r}", SECTIONS[name])

        def make() -> Section:
            try:
                return kind.model_validate(dict(raw))
            except ValidationError as error:
                raise cell_error(error, (name,)) from None

        return self._once(name, raw, make)

    def _drawn(self, data: Mapping[str, Any], cell: Mapping[str, Any]) -> Mapping[str, Any]:
        draw = cell.get("class_draw")
        classes = data.get("classes")
        if draw is None or not isinstance(classes, Mapping):
            return data
        drawn = classes.get("recipe", "all") not in ("all", "listed")
        return {**data, "classes": {**classes, "class_draw": draw}} if drawn else data

    def _model(self, raw: Any) -> ModelSpec:
        if raw is None:
            raise CellError(("model",), "model is missing", "for example model: narrow8_32")
        return self._section(ModelSpec, {"name": raw} if isinstance(raw, str) else raw, "model")

    def _check_size(self, model: ModelSpec, image_size: int) -> None:
        with at_key("target", "image_size"):
            self._once(model.name, image_size, lambda: check_size(model.name, image_size))

    def _pattern(self, raw: Any, model: ModelSpec) -> str:
        def make() -> str:
            with at_key("model"):
                depth = depth_of(model.name)
            return read_pattern(raw, model.name, depth)

        return self._once(f"pattern {model.name}", raw, make)

    def _method(self, raw: Any) -> MethodSpec:
        given = {"name": raw} if isinstance(raw, str) else raw
        if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
            raise CellError(
                ("method",), f"method: expected a name, found {raw!r}", SECTIONS["method"]
            )
        name, options = given["name"], {k: v for k, v in given.items() if k != "name"}

        def make() -> MethodSpec:
            with at_key("method"):
                complete = resolved(name, options)
            return MethodSpec(name=name, options=tuple(sorted(complete.items())))

        return self._once("method", given, make)

    def seeds(self, cell: Mapping[str, Any]) -> Seeds:
        """The three seeds of a cell."""
        seed, own = cell.get("seed", 0), cell.get("seeds", {})
        if not isinstance(own, Mapping):
            raise CellError(
                ("seeds",),
                f"seeds: expected a mapping, found {own!r}",
                f"write seed: {own!r}, or seeds: {{draw: 0}}",
            )
        raw = {"draw": seed, "init": seed, "order": seed, **own}
        try:
            return self._section(Seeds, raw, "seeds")
        except CellError as error:
            raise (error if error.key[-1] in own else error.at(("seed",))) from None

    def _borrow(
        self, cell: Mapping[str, Any], target: Mapping[str, Any], init: Init, image_size: int
    ) -> tuple[Borrowed, ...]:
        def read_data(raw: Mapping[str, Any]) -> DataSpec:
            drawn = self._drawn(self._inherit(raw, target), cell)
            return self._section(DataSpec, drawn, "borrow")

        return read_borrow(
            cell.get("borrow"),
            init,
            image_size=image_size,
            draw=cell.get("source_seed", 0),
            read_data=read_data,
        )

    # --- where the weights come from ---

    def _init(self, cell: Mapping[str, Any], target: Mapping[str, Any], model: ModelSpec) -> Init:
        if cell.get("weights") not in (None, "none"):
            return self._weights(cell["weights"], model)
        parent = self._parent_cell(cell, target, model)
        if parent is None:
            return Scratch()
        try:
            return FromRun.model_construct(kind="run", run=self._shared(parent))
        except CellError as error:
            raise error.at(_key_in_child(error.key, cell)) from None

    def _shared(self, cell: Mapping[str, Any]) -> RunSpec:
        """A run that others read; the same object for equal cells."""
        return self._once("run", cell, lambda: self._build(cell))

    def _bank(self, cell: Mapping[str, Any]) -> RunSpec | None:
        """The run whose kernels describe images, where the cell's method asks for kernels."""
        raw = cell.get("bank")
        method = self._method(cell.get("method", "plain"))
        if raw in (None, "none") or not options_of(method).uses_kernels:
            return None
        if not isinstance(raw, Mapping):
            raise CellError(("bank",), f"bank: expected a run, found {raw!r}", SECTIONS["bank"])
        seed = {"seed": cell.get("source_seed", 0)}
        with below("bank"):
            return self._shared({"pattern": "scratch", **seed, **raw})

    def _parent_cell(
        self, cell: Mapping[str, Any], target: Mapping[str, Any], model: ModelSpec
    ) -> dict[str, Any] | None:
        own = ("source", "parent", "seeds", "method", "borrow", "evaluate", "bank")
        base = {key: value for key, value in cell.items() if key not in own}
        if isinstance(cell.get("parent"), Mapping):
            return merge(base, cell["parent"])
        source = cell.get("source")
        if source in (None, "none"):
            return None
        if source == "self":
            data: Mapping[str, Any] = target
        elif isinstance(source, Mapping):
            data = self._inherit(source, target)
        else:
            raise CellError(
                ("source",),
                f"source {source!r} is not defined",
                "sources to try stand under axes: {source: [near, far]}"
                if isinstance(source, list)
                else "give it a name under sources:, write a mapping, or one of none, self",
            )
        seed = cell.get("seed", 0) if source == "self" else cell.get("source_seed", 0)
        return {
            "target": data,
            "model": cell.get("model"),
            "pattern": "scratch",
            "train": cell.get("pretrain", {}),
            "seed": seed,
            **({"class_draw": cell["class_draw"]} if "class_draw" in cell else {}),
        }

    @staticmethod
    def _inherit(source: Mapping[str, Any], target: Mapping[str, Any]) -> dict[str, Any]:
        """A source stands on the target's data set unless it names its own."""
        same = source.get("dataset", target.get("dataset")) == target.get("dataset")
        keys = _INHERITED if same else _KEPT
        kept = {key: target[key] for key in keys if key in target}
        if target.get("val_from") == "budget":  # a target's budget is not its source's
            kept.pop("val_per_class", None)
        data = kept | dict(source)
        classes = source.get("classes", {})
        if same and isinstance(classes, Mapping) and "recipe" not in classes:
            if not classes:
                raise CellError(
                    ("source",),
                    "the source is the target's own data set, so its classes must be named",
                    "add classes: {…}, or source: self for the target's own scratch model",
                )
            data["classes"] = {**target.get("classes", {}), **classes}
            data["classes"].pop("take", None) if "take" not in classes else None
        return data


def _key_in_child(key: tuple[str, ...], cell: Mapping[str, Any]) -> tuple[str, ...]:
    """Where the author of `cell` wrote what its parent has at `key`."""
    parent = cell.get("parent")
    if isinstance(parent, Mapping):
        return ("parent", *key) if key[0] in parent else key
    own = {"train": "pretrain", "seed": "source_seed"}
    if cell.get("source") == "self":
        return ("pretrain", *key[1:]) if key[0] == "train" else key
    return (("source" if key[0] == "target" else own.get(key[0], key[0])), *key[1:])
