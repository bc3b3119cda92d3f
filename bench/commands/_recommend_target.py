"""What `bench recommend` looks at: the images of target and source, their distance and overlap."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.core.errors import BenchError, DataError
from bench.core.paths import user_path
from bench.grid.yaml import scalar
from bench.results.store import Store
from bench.specs.data import DataSpec
from bench.specs.run import RunSpec, canonical_json

if TYPE_CHECKING:
    from analysis.advice.types import Situation
    from bench.data.catalog import Resolved
    from bench.data.inspection.overlap import Kind, Overlap


@dataclass(frozen=True)
class Asked:
    """What the command was asked.

    Attributes:
        target: a folder, an archive, a manifest, or a selection as YAML.
        source: a run, a selection, or timm:MODEL.
        network: for a source that is a selection; None looks for a run that learned it.
        source_images: for a source of timm: the images that it learned from.
        image_size: None is the source's.
        images_per_class: instead of those counted, to ask what more labels would change.
        accuracy: wanted, a fraction.
        images: at most so many of each side for distances.
    """

    target: str
    source: str
    network: str | None = None
    source_images: str | None = None
    image_size: int | None = None
    images_per_class: int | None = None
    accuracy: float | None = None
    images: int = 1000


@dataclass(frozen=True)
class Source:
    """Where weights come from.

    Attributes:
        network: as `bench distance --network` takes it.
        model: name of the network; None where it is random.
        data: the images it learned from; None: not at hand.
        draw: seed of the draw of these images.
        image_size: that the network was trained on; None: any.
        words: for people.
    """

    network: str
    model: str | None
    data: DataSpec | None
    draw: int
    image_size: int | None
    words: str


@dataclass(frozen=True)
class Looked:
    """What was measured.

    Attributes:
        situation: for `analysis.advice.recommend.advise`.
        distances: rows of `bench distance`; empty where there are no source images.
        overlap: None where there are no source images.
        shared: (target image, source image, kind) of each match.
        lines: what to print above the advice.
    """

    situation: Situation
    distances: tuple[dict[str, Any], ...]
    overlap: Overlap | None
    shared: tuple[tuple[str, str, str], ...]
    lines: tuple[str, ...]


# --- what is asked ------------------------------------------------------------------------------


def target_selection(text: str, image_size: int | None, places: dict[str, Any]) -> DataSpec:
    """The selection that a folder, an archive, a manifest or YAML means.

    All training images are taken. Where the data set has no test images, some of each class are
    held out, so that counts and overlap are those of a grid.

    Raises:
        BenchError: there is nothing at the path, or the YAML is wrong, with the key.
    """
    from bench.commands._neighbours import folder_selection, parse_selection

    path = user_path(text) if not text.lstrip().startswith("{") else Path("{")
    if not path.exists():
        if "/" in text and not text.lstrip().startswith("{"):
            raise DataError(
                "there is no such folder", place=text, hint="give a folder with a folder per class"
            )
        raw = scalar(text)
        given = {"dataset": raw} if isinstance(raw, str) else dict(raw or {})
        if image_size is not None:
            given.setdefault("image_size", image_size)
        return parse_selection("target", canonical_json(given))
    return folder_selection(path, image_size, places)


def find_source(asked: Asked, results: Path) -> Source:
    """What the option --source means.

    Raises:
        BenchError: no run, selection or network of that name; no run that learned the selection.
    """
    from bench.commands._neighbours import parse_selection

    text = asked.source.strip()
    if text.startswith("timm:"):
        images = asked.source_images
        data = None if images is None else parse_selection("source", images)
        name = text.removeprefix("timm:")
        return Source(text, name.partition(".")[0], data, 0, _size_of(name), f"timm's {name}")
    if text.startswith("{") or _is_dataset(text):
        return _of_selection(asked, parse_selection("source", text), results)
    if asked.source_images is not None:
        raise BenchError(
            "--source-images is for a source of timm", hint="a run says what it learned from"
        )
    return _of_run(text, results)


def _is_dataset(text: str) -> bool:
    from bench.data.datasets import DATASETS

    return text in DATASETS


def _size_of(name: str) -> int:
    """The side of the images that timm's weights were trained on."""
    import timm

    from bench.models import layers

    layers.register_networks()
    layers.check_name(name.partition(".")[0])
    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    if config is None:
        raise BenchError(f"timm publishes no weights {name!r}", hint="see timm.list_pretrained()")
    return int(config.input_size[1])


def _of_run(text: str, results: Path) -> Source:
    from bench.results.lookup import find_run

    folder = find_run(text, results)
    spec = RunSpec.model_validate_json((folder.path / "spec.json").read_text(encoding="utf-8"))
    words = f"run {folder.run_id[:12]}: {spec.model.name} trained on {_described(spec)}"
    size = spec.data.image_size
    return Source(folder.run_id, spec.model.name, spec.data, spec.seeds.draw, size, words)


def _described(spec: RunSpec) -> str:
    from bench.results.records import selection_label

    return f"{spec.data.dataset} {selection_label(spec.data)}"


def _of_selection(asked: Asked, data: DataSpec, results: Path) -> Source:
    """A selection, and the network named or a run that learned it from scratch."""
    if asked.network is not None:
        kind, _, name = asked.network.partition(":")
        if kind in ("timm", "scratch"):
            model = name.partition(".")[0] or None
            return Source(asked.network, model, data, 0, data.image_size, "a selection")
        run = _of_run(asked.network, results)
        return Source(run.network, run.model, data, 0, run.image_size, f"a selection; {run.words}")
    found = _learned(data, results)
    if not found:
        raise BenchError(
            "no run below the results folder learned this source from scratch",
            place=str(results),
            hint="name the network: --network RUN or --network timm:NAME; or train one in a grid",
        )
    return _of_run(found[0], results)


def _learned(data: DataSpec, results: Path) -> list[str]:
    """Runs from scratch on exactly this selection; the best by validation first."""
    store = Store(results)
    ranked = []
    for folder in store.find(""):
        path = folder.path / "spec.json"
        record = folder.record() if path.is_file() else None
        if record is None or record["row"].get("status") != "done":
            continue
        spec = RunSpec.model_validate_json(path.read_text(encoding="utf-8"))
        if spec.init.kind == "scratch" and spec.data.identity() == data.identity():
            accuracy = record["row"].get("val_top1_accuracy") or 0.0
            ranked.append((-float(accuracy), folder.run_id))
    return [run for _, run in sorted(ranked)]


# --- what is measured ---------------------------------------------------------------------------


def look(asked: Asked, results: Path, data_root: Path | None) -> Looked:
    """Counts the target's images, and measures distance and overlap where there are source images.

    Raises:
        BenchError: anything asked for that is not there.
    """
    from analysis.advice.types import Situation
    from bench.data.catalog import resolve

    source = find_source(asked, results)
    places: dict[str, Any] = {"data_root": data_root, "cache_dir": Store(results).cache}
    size = asked.image_size or source.image_size
    data = target_selection(asked.target, size, places)
    target = resolve(data, 0, **places)
    counts = Counter(image.label for image in target.train)
    per_class = [counts.get(label, 0) for label in target.classes]
    mean = asked.images_per_class or sum(per_class) / len(per_class)
    lines = [_target_words(target, per_class, asked.images_per_class), f"source: {source.words}"]
    facts: dict[str, Any] = {}
    overlap: Overlap | None = None
    shared: tuple[tuple[str, str, str], ...] = ()
    rows: tuple[dict[str, Any], ...] = ()
    if source.data is None:
        lines.append(
            "the source's images are not at hand: no distance and no overlap (name them with "
            "--source-images, such as '{dataset: imagenet}')"
        )
    else:
        rows = _distances(asked, source, data, results, data_root)
        facts |= _cosine(rows)
        overlap, shared = _overlap(source, data, target, places)
        facts |= _overlap_facts(overlap, len(target.train))
        lines += _measured_words(rows, overlap, shared)
    situation = Situation(
        images_per_class=float(mean),
        classes=len(target.classes),
        model=source.model,
        accuracy=asked.accuracy,
        source_images=source.data is not None,
        fewest=None if asked.images_per_class else min(per_class),
        most=None if asked.images_per_class else max(per_class),
        **facts,
    )
    return Looked(situation, rows, overlap, shared, tuple(lines))


def _target_words(target: Resolved, per_class: list[int], asked: int | None) -> str:
    each = (
        f"{min(per_class)}"
        if min(per_class) == max(per_class)
        else (f"{min(per_class)} to {max(per_class)}")
    )
    text = (
        f"target: {len(target.classes)} classes, {len(target.train)} training images ({each} per "
        f"class), {len(target.val)} for validation, {len(target.test)} for the test"
    )
    return text if asked is None else f"{text}; advice is for {asked} per class, as asked"


def _distances(
    asked: Asked, source: Source, target: DataSpec, results: Path, data_root: Path | None
) -> tuple[dict[str, Any], ...]:
    from bench.commands.distance import measure_selections

    assert source.data is not None
    theirs = source.data.model_copy(update={"image_size": target.image_size})
    found = measure_selections(
        _as_text(theirs),
        _as_text(target),
        network=source.network,
        images=asked.images,
        results=results,
        data_root=data_root,
    )
    return tuple(dict(row) for row in found.rows)


def _as_text(data: DataSpec) -> str:
    return canonical_json(data.model_dump(mode="json"))


def _cosine(rows: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    """The situation's distance; below zero can only be rounding."""
    row = next(row for row in rows if row["distance"] == "cosine")
    if row["value"] is None:
        return {}
    low, high = row["low"], row["high"]
    return {"cosine": max(0.0, float(row["value"])), "cosine_low": low, "cosine_high": high}


def _overlap(
    source: Source, data: DataSpec, target: Resolved, places: dict[str, Any]
) -> tuple[Overlap, tuple[tuple[str, str, str], ...]]:
    from bench.data.catalog import load, resolve
    from bench.data.inspection.overlap import Pictures, find_overlap

    assert source.data is not None
    theirs = source.data.model_copy(update={"image_size": data.image_size})
    origin = resolve(theirs, source.draw, **places)
    pixels = load(origin, theirs, **places)
    sides = (
        Pictures(
            [image.key for image in target.images],
            [image.sha256 for image in target.images],
            load(target, data, **places).images,
        ),
        Pictures(
            [image.key for image in origin.train],
            [image.sha256 for image in origin.train],
            pixels.images[pixels.train],
        ),
    )
    found = find_overlap(*sides)
    shared = tuple(
        (sides[0].keys[m.target], sides[1].keys[m.source], m.kind) for m in found.matches
    )
    return found, shared


def _overlap_facts(overlap: Overlap, training: int) -> dict[str, Any]:
    """Training images come first among the target's."""
    held_out = sum(match.target >= training for match in overlap.matches)
    return {"overlap": len(overlap.matches), "overlap_test": held_out}


def _measured_words(
    rows: tuple[dict[str, Any], ...], overlap: Overlap, shared: tuple[tuple[str, str, str], ...]
) -> list[str]:
    said = []
    for row in rows:
        if row["value"] is None:
            continue
        ends = "" if row["low"] is None else f" ({row['low']:.3g} to {row['high']:.3g})"
        said.append(f"{row['distance']} {row['value']:.3g}{ends}")
    n = max((row["n"] or 0) for row in rows)
    lines = [f"distances at the last hidden layer, {n} images of each: {'; '.join(said)}"]
    if shared:
        kinds: dict[Kind, str] = {
            "exact": "the same file",
            "similar": "the same picture",
            "mirrored": "mirrored",
        }
        numbers = {word: overlap.count(kind) for kind, word in kinds.items()}
        counts = ", ".join(f"{n} {word}" for word, n in numbers.items() if n)
        some = "; ".join(f"{ours} = {theirs}" for ours, theirs, _ in shared[:3])
        lines.append(f"shared images: {counts}; {some}{' …' if len(shared) > 3 else ''}")
    if overlap.flat:
        lines.append(f"{overlap.flat} target images are of one colour and compared by bytes alone")
    return lines
