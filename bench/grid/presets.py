"""Presets: partial grids that are laid over a grid file before it is expanded.

    presets:
      miniature:
        about: the same experiments on digits, in minutes
        defaults: {target: {dataset: digits, image_size: 16}, train: {epochs: 2}}
        experiments:
          figure-4: {axes: {train.lr: [0.1, 0.01]}}   # replaces that axis, keeps the others
          table-5: null                               # leaves this experiment out

Mappings are merged key by key; lists and values replace; a `null` for an experiment, for a key of
an experiment or for one of its axes removes it. Several presets are laid in the order given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.core.errors import nearest
from bench.grid.cells import Place
from bench.grid.yaml import Document

PRESET = "preset"
"""Key of the override that names a preset (`--set preset=NAME`, the same as `--preset NAME`)."""

_LAID_OVER = (
    *("about", "root", "defaults", "sources", "targets"),
    *("measure", "experiments", "slurm", "race"),
)
_TAGS = ("recipe", "dataset")


def split_presets(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """The names of presets among `--set` texts, and the other texts.

    >>> split_presets(["preset=miniature", "train.lr=0.1"])
    (['miniature'], ['train.lr=0.1'])
    """
    names: list[str] = []
    others: list[str] = []
    for text in overrides:
        key, equals, value = text.partition("=")
        if equals and key.strip() == PRESET:
            names += [name.strip() for name in value.split(",") if name.strip()]
        else:
            others.append(text)
    return names, others


def with_presets(document: Document, names: Sequence[str]) -> Document:
    """The grid with the named presets laid over it; errors still find their lines."""
    if not isinstance(document.value, dict):
        return document
    value = {key: part for key, part in document.value.items() if key != "presets"}
    lines = dict(document.lines)
    presets = _presets(document)
    for name in names:
        if name not in presets:
            hint = f"presets: {nearest(name, presets)}" if presets else "this grid has no presets"
            raise document.error(("presets",), f"there is no preset {name!r}", hint)
        above: Place = ("presets", name)
        for path, line in document.lines.items():
            if path[:2] == above and len(path) > 2:
                lines[path[2:]] = line
        value = _lay(value, presets[name], ())
    return Document(document.name, value, lines)


def _presets(document: Document) -> Mapping[str, Mapping[str, Any]]:
    """What stands under `presets:`, checked."""
    given = document.value.get("presets") or {}
    if not isinstance(given, dict):
        raise document.error(
            ("presets",),
            f"presets: expected a mapping of names, found {given!r}",
            "presets: {miniature: {defaults: {train: {epochs: 2}}}}",
        )
    for name, preset in given.items():
        place: Place = ("presets", name)
        if not isinstance(preset, dict):
            text = f"preset {name!r}: expected a partial grid, found {preset!r}"
            raise document.error(place, text, f"its keys: {', '.join(_LAID_OVER)}")
        for key in preset:
            if key not in _LAID_OVER:
                known = nearest(key, _LAID_OVER, len(_LAID_OVER))
                text = f"unknown key {key!r} in preset {name!r}"
                raise document.error((*place, key), text, f"known: {known}")
        experiments = document.value.get("experiments") or {}
        for experiment, part in (preset.get("experiments") or {}).items():
            if part is None and experiment not in experiments:
                raise document.error(
                    (*place, "experiments", experiment),
                    f"preset {name!r} leaves out {experiment!r}, which is no experiment",
                    f"experiments: {nearest(experiment, experiments)}",
                )
    return given


def _lay(below: Any, above: Any, path: Place) -> Any:
    """`above` laid over `below`; a mapping of another data set or recipe replaces as a whole."""
    if not isinstance(below, Mapping) or not isinstance(above, Mapping):
        return above
    if any(tag in above and tag in below and above[tag] != below[tag] for tag in _TAGS):
        return dict(above)
    result = dict(below)
    for key, value in above.items():
        where: Place = (*path, key)
        if value is None and _removes(where):
            result.pop(key, None)
        else:
            result[key] = _lay(result.get(key), value, where)
    return result


def _removes(path: Place) -> bool:
    """Whether `null` here means that the key goes, and not that the value is None."""
    if path[0] != "experiments":
        return False
    return len(path) <= 3 or (len(path) == 4 and path[2] == "axes")
