"""A record beyond its columns: images left out, classes capped, remarks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.core.text import counted, listed, some
from bench.data.dataset import remarks
from bench.results.records import selection_label
from bench.specs.data import DataSpec
from bench.specs.run import RunSpec

_MOST = 12
_WORDS = {
    "capped_classes": "fewer images than asked for",
    "dropped_classes": "left out for too few images",
    "skipped_corrupt": "corrupt images skipped",
    "skipped_corrupt_images": "which were corrupt",
    "dropped_duplicates": "duplicate images dropped",
    "dropped_duplicates_with_other_label": "of these with another label",
    "dropped_equal_to_test": "images dropped for being equal to a test image",
    "left_out_group_in_other_split": "images left out, their group is in another split",
    "files_passed_over": "files passed over",
    "merged_names": "names that got one spelling",
    "listed_images_missing": "missing",
    "images": "fingerprint of the images",
}
_OF_THE_RECORD = ("row", "classes", "files", "sizes", "notes", "run_id", "schema", "digest")


# --- one run ---


def record_lines(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Everything of a record that is no column of the leaderboard, as (name, text)."""
    classes = list(record.get("classes", ()))
    lines = [("classes", f"{len(classes)}: {listed(classes, _MOST)}")] if classes else []
    notes = record.get("notes", {})
    lines += [(_name(key), text) for key, text in _flat("", notes.get("data", {}))]
    for part in sorted(set(notes) - {"data"}):
        lines += [(_name(key), text) for key, text in _flat(part, notes[part])]
    others = {key: record[key] for key in sorted(record) if key not in _OF_THE_RECORD}
    lines += [(_name(key), text) for key, text in _flat("", others)]
    files = list(record.get("files", ()))
    return lines + ([("files", listed(files, _MOST))] if files else [])


def _name(key: str) -> str:
    return _WORDS.get(key, key.replace("_", " ")).strip()


def _flat(name: str, value: Any) -> list[tuple[str, str]]:
    """Nested values as lines; a list of plain values is one line, an empty value none."""
    if isinstance(value, Mapping):
        pairs = [(f"{name} {key}" if name else str(key), value[key]) for key in value]
        return [line for key, part in pairs for line in _flat(key, part)]
    if isinstance(value, (list, tuple)):
        if any(isinstance(part, (Mapping, list, tuple)) for part in value):
            parts = [(f"{name} {number}", part) for number, part in enumerate(value, start=1)]
            return [line for key, part in parts[:_MOST] for line in _flat(key, part)]
        return [(name, listed(value, _MOST))] if value else []
    if value is None or value == "":
        return []
    return [(name, f"{value:g}" if isinstance(value, float) else str(value))]


# --- what was left out ---


def omissions(notes: Mapping[str, Any]) -> list[str]:
    """What a selection could not give as it was asked, in phrases; `[]` where it could.

    Args:
        notes: of the data, as the record has them.

    >>> omissions({"capped_classes": ["emu: 11 of 20 train"], "classes_under_root": 118})
    ['1 class has fewer images than asked for (emu: 11 of 20 train)']
    """
    found = []
    if capped := notes.get("capped_classes"):
        many = counted(len(capped), "class has", "classes have")
        found.append(f"{many} fewer images than asked for ({listed(capped, 4)})")
    if dropped := notes.get("dropped_classes"):
        many = counted(len(dropped), "class was", "classes were")
        found.append(f"{many} left out for too few images ({listed(dropped, 4)})")
    if corrupt := notes.get("skipped_corrupt"):
        which = listed(notes.get("skipped_corrupt_images", ()), 4)
        many = counted(corrupt, "corrupt image was", "corrupt images were")
        found.append(f"{many} skipped ({which})")
    if equal := notes.get("dropped_equal_to_test"):
        found.append(f"{counted(equal, 'image was', 'images were')} dropped, equal to a test image")
    if twice := notes.get("dropped_duplicates"):
        text = f"{counted(twice, 'duplicate image was', 'duplicate images were')} dropped"
        other = notes.get("dropped_duplicates_with_other_label")
        found.append(text + (f", {other} with another label" if other else ""))
    if left := notes.get("left_out_group_in_other_split"):
        many = counted(left, "image was", "images were")
        found.append(f"{many} left out, their group is in another split")
    return found


def omitted_by_condition(
    finished: Iterable[tuple[RunSpec, Mapping[str, Any]]], most: int = 12
) -> list[str]:
    """A line for each data set and each selection that could not be had as asked, over all draws.

    Args:
        finished: specs and records of finished runs.
        most: so many lines; then one with the number of the others.
    """
    groups: dict[str, dict[str, int]] = {}
    for spec, record in finished:
        notes = record.get("notes", {}).get("data", {})
        parts = [(_set(spec.data), remarks(notes)), (_condition(spec), omissions(notes))]
        for number, extra in enumerate(record.get("borrowed", ())):
            notes = extra.get("notes", {})
            if number < len(spec.borrow):
                parts.append((_set(spec.borrow[number].data), remarks(notes)))
            parts.append((f"borrowed for {_condition(spec)}", omissions(notes)))
        for name, texts in parts:
            for text in texts:
                group = groups.setdefault(name, {})
                group[text] = group.get(text, 0) + 1
    lines = [f"{name}: {some(group, 4)}" for name, group in groups.items()]
    more = len(lines) - most
    return lines[:most] + ([f"… and {more} more, see bench show RUN"] if more > 0 else [])


def _set(data: DataSpec) -> str:
    return f"{data.dataset} {Path(data.root).name}" if data.root else data.dataset


def _condition(spec: RunSpec) -> str:
    data = spec.data
    k = data.images_per_class
    images = "all images" if k is None else counted(k, "image")
    return f"{data.dataset} {selection_label(data)}, {images} per class"
