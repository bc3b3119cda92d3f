"""Selections, networks and sources as text on the command line, and what they mean."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from bench.commands._options import say
from bench.core.errors import BenchError, DataError, StoreError
from bench.core.paths import user_path
from bench.grid.errors import cell_error
from bench.grid.weights import WEIGHTS_FILES, WeightsReader
from bench.grid.yaml import scalar
from bench.models.published import PACKAGES, find_package
from bench.results.store import Store
from bench.specs.data import ClassRecipe, DataSpec
from bench.specs.run import FromFile, FromTimm, ModelSpec

if TYPE_CHECKING:
    import torch
    from torch import nn

    from analysis.advice.target import Source
    from analysis.measurements.selections import Places


def validated(
    kind: Any, value: Any, prefix: tuple[str, ...], about: str = "", example: str | None = None
) -> Any:
    """The value as a pydantic type.

    Args:
        kind: the type, a union of types included.
        value: plain values, such as YAML gives.
        prefix: the key under which a grid would have it.
        about: put before the problem.
        example: the way out where the problem has none.

    Raises:
        BenchError: the first problem, with the way out.
    """
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        problem = cell_error(error, prefix)
        raise BenchError(about + problem.message, hint=problem.hint or example) from None


def places_and_device(
    results: Path, data_root: Path | None, device: str = "auto"
) -> tuple[Places, torch.device]:
    """Where data sets and decoded images lie, and what to compute on.

    Raises:
        BenchError: the device is cuda, and there is none.
    """
    from bench.runs.build import Context

    context = Context(str(results), str(data_root) if data_root else None, device)
    return {"data_root": context.root, "cache_dir": context.cache}, context.torch_device()


# --- selections -------------------------------------------------------------------------------


def parse_selection(name: str, text: str, image_size: int | None = None) -> DataSpec:
    """A selection as YAML: the name of a data set, or a mapping.

    Args:
        name: of the option.
        text: what was given.
        image_size: in pixels, where the mapping has none; None is a selection's default.

    Raises:
        BenchError: naming the key that is wrong.

    >>> parse_selection("target", "{dataset: digits, images_per_class: 5}").images_per_class
    5
    """
    value = scalar(text)
    raw = {"dataset": value} if isinstance(value, str) else value
    if image_size is not None and isinstance(raw, Mapping):
        raw = {"image_size": image_size, **raw}
    example = "write for example '{dataset: digits, images_per_class: 5, test_per_class: 20}'"
    data: DataSpec = validated(DataSpec, raw, ("target",), f"{name} {text}: ", example)
    return data


def parse_recipe(text: str) -> ClassRecipe:
    """A class recipe as YAML: its name, or a mapping.

    Raises:
        BenchError: naming the key that is wrong.
    """
    value = scalar(text)
    value = {"recipe": value} if isinstance(value, str) else value
    recipe: ClassRecipe = validated(ClassRecipe, value, ("recipe",), f"recipe {text}: ")
    return recipe


_HELD_OUT = 0.2
"""Share of the smallest class that is held out for the test where a folder has no test images; half
as much for validation."""


def read_selection(name: str, text: str, places: Places, image_size: int | None = None) -> DataSpec:
    """A selection: YAML, the name of a data set, or a folder, an archive or a manifest of images.

    All training images of a folder are taken. Where it has no test images, some of each class are
    held out, so that counts and overlap are those of a grid.

    Args:
        name: of the option.
        text: what was given.
        places: of data sets and decoded images.
        image_size: in pixels, where the text has none; None is a selection's default.

    Raises:
        BenchError: naming the key that is wrong, or a folder that is not there or no data set.
    """
    from bench.data.catalog import open_dataset

    path = _path(text)
    if path is None:
        return parse_selection(name, text, image_size)
    kind = "manifest" if path.suffix.lower() == ".csv" else "folder"
    raw: dict[str, Any] = {"dataset": kind, "root": str(path)}
    raw |= {"on_short": "cap", "on_corrupt": "skip"}
    raw["image_size"] = image_size or DataSpec.model_fields["image_size"].default
    dataset = open_dataset(kind, str(path), **places)
    smallest = min(len(dataset.images_of(label)) for label in dataset.classes)
    raw["val_per_class"] = min(10, max(1, round(_HELD_OUT / 2 * smallest)))
    if not dataset.has_test:
        raw["test_per_class"] = max(1, round(_HELD_OUT * smallest))
    return DataSpec.model_validate(raw)


def read_pair(source: str, target: str, places: Places) -> tuple[DataSpec, DataSpec]:
    """Two selections that are compared; a folder's images get the size of the other side's.

    Raises:
        BenchError: as `read_selection`.
    """
    texts = {"source": source, "target": target}
    parsed = {name: parse_selection(name, t) for name, t in texts.items() if _path(t) is None}
    size = next((data.image_size for data in parsed.values()), None)
    first, second = (
        parsed.get(name) or read_selection(name, text, places, size) for name, text in texts.items()
    )
    return first, second


def _path(text: str) -> Path | None:
    """The path that a text is; None for YAML and names of data sets."""
    if text.lstrip().startswith("{") or _is_dataset(text):
        return None
    path = user_path(text)
    if path.exists():
        return path
    if "/" in text:
        raise DataError(
            "there is no such folder", place=text, hint="give a folder with a folder per class"
        )
    return None


def _is_dataset(text: str) -> bool:
    from bench.data.datasets import DATASETS

    return text.strip() in DATASETS


# --- networks ---------------------------------------------------------------------------------

_RANDOM = "narrow8_32"
"""The network whose random features are taken where none is named."""


def named_network(text: str, image_size: int, results: Path) -> tuple[nn.Module, str]:
    """The network that an option means, and its description.

    Args:
        text: a run, `timm:NAME` for pretrained weights, `scratch` or `scratch:NAME` for a random
            network, or weights as `given_weights` takes them.
        image_size: of the images that it is to see.
        results: where runs lie.

    Raises:
        BenchError: no such network or run, or a run that was trained on images of another size.
    """
    kind, _, name = text.partition(":")
    if kind == "scratch":
        return _random(name or _RANDOM, image_size), f"{name or _RANDOM}, random weights"
    if kind == "timm":
        return _pretrained(name, image_size), f"{name}, timm's weights"
    weights = given_weights(text, None)
    if weights is not None:
        return _with_weights(weights.model, weights.init, None, image_size), weights.words
    from bench.results.lookup import find_run, read_network

    network = read_network(find_run(text, results))
    trained_on = network.spec.data.image_size
    if trained_on != image_size:
        raise BenchError(
            f"the network was trained on {trained_on} pixels, the images have {image_size}",
            hint=f"give both selections image_size: {trained_on}",
        )
    return network.model, f"{network.spec.model.name} of run {text}"


def _random(name: str, image_size: int) -> nn.Module:
    from bench.models import layers
    from bench.specs.run import ModelSpec

    return layers.create(ModelSpec(name=name), 1, seed=0, image_size=image_size)


@dataclass(frozen=True)
class Weights:
    """A file of weights, that of a package included.

    Attributes:
        model: name of the network.
        init: what a run would copy from.
        image_size: that the network was trained on; None: not known.
    """

    model: str
    init: FromFile
    image_size: int | None

    @property
    def words(self) -> str:
        """The network and its weights, for people."""
        return f"{self.model}, weights {self.init.package or Path(self.init.path).name}"

    @property
    def text(self) -> str:
        """What `given_weights` reads as these."""
        if self.init.package is not None:
            return f"package:{self.init.package}"
        given = self.init.model_dump(mode="json", exclude_none=True, exclude={"kind", "sha256"})
        return json.dumps({"file": given.pop("path"), "model": self.model, **given})


def given_weights(text: str, network: str | None) -> Weights | None:
    """The file of weights that an option means; None where it means something else.

    Args:
        text: `package:NAME`, a file, a folder of `bench export`, or a mapping as `weights:` of a
            grid has it, which may name its model: `{file: PATH, model: resnet18}`.
        network: name of the network, where neither the text nor a config.json beside names it.

    Raises:
        BenchError: no such package or file, or one that cannot be read.
    """
    raw = _weights_mapping(text)
    if raw is None:
        return None
    named, package = raw.pop("model", network), raw.get("package")
    model, size = (None, None) if "package" in raw else _beside(Path(str(raw["file"])))
    if isinstance(package, str):
        find_package(package)  # first of all whether there is one of this name
        model = PACKAGES[package].model
    elif named is not None:
        model = str(named).removeprefix("timm:")
    init = WeightsReader()(raw, ModelSpec(name=model or ""))
    assert isinstance(init, FromFile)
    if model is None:
        raise BenchError(
            f"the weights file {init.path} does not name its network, and no config.json beside it "
            "does",
            hint="name it, for example --network resnet18, or write {file: PATH, model: resnet18}",
        )
    return Weights(model, init, size or _published_size(model))


def _weights_mapping(text: str) -> dict[str, Any] | None:
    if text.startswith("package:"):
        return {"package": text.removeprefix("package:")}
    if text.startswith("{"):
        raw = scalar(text)
        return dict(raw) if isinstance(raw, Mapping) and {"file", "package"} & set(raw) else None
    if not text:
        return None
    path = user_path(text)
    if (path / "config.json").is_file() and (path / "model.safetensors").is_file():
        return {"file": str(path / "model.safetensors")}
    of_run = (path.parent / "record.json").is_file()
    return {"file": text} if path.suffix in WEIGHTS_FILES and not of_run else None


def _beside(file: Path) -> tuple[str | None, int | None]:
    """Network and image size, by timm's `config.json` beside weights, where that is there."""
    try:
        config = json.loads((user_path(file).parent / "config.json").read_text(encoding="utf-8"))
        size = config.get("pretrained_cfg", config).get("input_size", [None])[-1]
        name = config.get("architecture")
    except (OSError, ValueError, AttributeError, TypeError, LookupError):
        return None, None
    is_size = isinstance(size, int) and not isinstance(size, bool) and size > 0
    return name if isinstance(name, str) else None, size if is_size else None


def _published_size(model: str) -> int | None:
    """The side of the images that timm's own weights of a network were trained on, if it has any.

    Raises:
        BenchError: there is no network of this name.
    """
    import timm

    from bench.models import layers

    layers.register_networks()
    layers.check_name(model)
    config = timm.get_pretrained_cfg(model, allow_unregistered=True)
    return None if config is None else int(config.input_size[-1])


def _pretrained(name: str, image_size: int) -> nn.Module:
    plain, _, tag = name.partition(".")
    return _with_weights(plain, FromTimm(tag=tag or None), tag or None, image_size)


def _with_weights(
    name: str, init: FromTimm | FromFile, tag: str | None, image_size: int
) -> nn.Module:
    from bench.grid.extractions import extraction_pattern
    from bench.models import layers, weights
    from bench.models.depths import depth_of
    from bench.models.inputs import InputStatistics, attach, published_statistics
    from bench.specs.pattern import LayerPattern

    pattern = LayerPattern.parse(extraction_pattern(init, depth_of(name)))
    model = _random(name, image_size)
    layers.apply_pattern(model, pattern, weights.load_state(init, name, image_size=image_size))
    statistics = published_statistics(name, tag)
    if isinstance(init, FromFile) and init.mean is not None and init.std is not None:
        statistics = InputStatistics(init.mean, init.std)
    attach(model, statistics)
    return model


# --- sources ----------------------------------------------------------------------------------


def find_source(text: str, network: str | None, source_images: str | None, results: Path) -> Source:
    """The source of weights that `bench recommend` is given.

    Args:
        text: a run, a selection, timm:MODEL, or weights as `given_weights` takes them.
        network: for a selection, see `named_network`; None looks for a run that learned it. For a
            file of weights the name of its network.
        source_images: for timm:MODEL and weights, the selection that they learned from.
        results: where runs lie.

    Raises:
        BenchError: no run, selection or network of that name; no run that learned the selection.
    """
    from analysis.advice.target import Source

    text = text.strip()
    if text.startswith("timm:"):
        data = None if source_images is None else parse_selection("source", source_images)
        name = text.removeprefix("timm:")
        size = _size_of_timm(name)
        return Source(text, f"timm's {name}", name.partition(".")[0], data, image_size=size)
    weights = given_weights(text, network)
    if weights is not None:
        data = None if source_images is None else parse_selection("source", source_images)
        return Source(weights.text, weights.words, weights.model, data, 0, weights.image_size)
    if text.startswith("{") or _is_dataset(text):
        return _source_of_selection(parse_selection("source", text), network, results)
    if source_images is not None:
        raise BenchError(
            "--source-images is for a source of timm, of a package or of a file of weights",
            hint="leave it out: a run's record names the images that it learned from",
        )
    return _source_of_run(text, results)


def _size_of_timm(name: str) -> int:
    """The side of the images that timm's weights were trained on."""
    import timm

    from bench.models import layers

    layers.register_networks()
    layers.check_name(name.partition(".")[0])
    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    if config is None:
        raise BenchError(f"timm publishes no weights {name!r}", hint="see timm.list_pretrained()")
    return int(config.input_size[1])


def _source_of_run(text: str, results: Path) -> Source:
    from analysis.advice.target import Source
    from bench.results.lookup import find_run
    from bench.results.records import selection_label

    folder = find_run(text, results)
    spec = folder.spec()
    data, name = spec.data, spec.model.name
    words = f"run {folder.run_id[:12]}: {name} trained on {data.dataset} {selection_label(data)}"
    return Source(folder.run_id, words, name, data, spec.seeds.draw, data.image_size)


def _source_of_selection(data: DataSpec, network: str | None, results: Path) -> Source:
    """A selection, and the network named or a run that learned it from scratch."""
    from analysis.advice.target import Source

    if network is not None:
        kind, _, name = network.partition(":")
        if kind in ("timm", "scratch"):
            model = name.partition(".")[0] or None
            return Source(network, "a selection", model, data, image_size=data.image_size)
        weights = given_weights(network, None)
        if weights is not None:
            words = f"a selection; {weights.words}"
            return Source(weights.text, words, weights.model, data, image_size=data.image_size)
        run = _source_of_run(network, results)
        words = f"a selection; {run.words}"
        return Source(run.network, words, run.model, data, image_size=run.image_size)
    best = _run_from_scratch(data, results)
    if best is None:
        raise BenchError(
            "no run below the results folder learned this source from scratch",
            place=str(results),
            hint="name the network: --network RUN or --network timm:NAME; or train one in a grid",
        )
    return _source_of_run(best, results)


def _run_from_scratch(data: DataSpec, results: Path) -> str | None:
    """The run on exactly this selection with the best validation accuracy."""
    ranked = []
    for folder in Store(results).find(""):
        try:
            record = folder.record()
            if record is None or record["row"]["status"] != "done":
                continue
            spec = folder.spec()
        except StoreError as error:
            say(f"passed over: {error.place}: {error.message}", err=True)
            continue
        if spec.init.kind == "scratch" and spec.data.identity() == data.identity():
            accuracy = record["row"].get("val_top1_accuracy") or 0.0
            ranked.append((-float(accuracy), folder.run_id))
    return min(ranked)[1] if ranked else None
