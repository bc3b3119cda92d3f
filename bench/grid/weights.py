"""The key `weights:` of a cell: timm's published weights, or a file, looked at without torch."""

from __future__ import annotations

import hashlib
import json
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bench.core.errors import BenchError, nearest
from bench.core.paths import user_path
from bench.grid.errors import CellError, at_key
from bench.models.published import PACKAGES, check_package, check_tag
from bench.specs.run import FromFile, FromTimm, ModelSpec

WEIGHTS_FILES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".tar")
_MEANT = (
    "weights: timm, {timm: TAG}, {package: efficientnet-lite0}, {file: net.safetensors}, none; a "
    "file may have sha256: …, and "
    "mean: [R, G, B], std: [R, G, B] of the images it was trained on, as fractions of 255"
)
_OF_FILES = {"file", "sha256", "mean", "std"}
_MOST_HEADER = 100_000_000
_OLD_TORCH = (
    b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19",
    b"\x80\x02}",
    b"\x80\x02c",
)
"""How files begin that torch wrote before its zip format: its magic number, or a bare pickle."""


class WeightsReader:
    """Reads `weights:`; looks at each file once."""

    def __init__(self) -> None:
        self._files: dict[Path, str] = {}
        self._packages: dict[tuple[str, str], Path] = {}

    def __call__(self, raw: Any, model: ModelSpec) -> FromTimm | FromFile:
        """Where the weights come from.

        Raises a CellError for weights that timm does not have, and for a file that is missing,
        torn, of another kind or not the one of its SHA-256.
        """
        if raw == "timm":
            return self._timm(model, None)
        if isinstance(raw, Mapping) and set(raw) == {"timm"} and isinstance(raw["timm"], str):
            return self._timm(model, raw["timm"])
        if isinstance(raw, Mapping) and set(raw) == {"package"} and isinstance(raw["package"], str):
            return self._package(model, raw["package"])
        if isinstance(raw, Mapping) and "file" in raw and set(raw) <= _OF_FILES:
            return self._file(raw)
        if isinstance(raw, str) and raw.endswith(WEIGHTS_FILES):
            raise CellError(("weights",), f"weights is {raw!r}", f"write {{file: {raw}}}")
        if isinstance(raw, Mapping) and "name" in raw:  # what a dotted key makes of weights: timm
            key, value = next((pair for pair in raw.items() if pair[0] != "name"), ("file", "PATH"))
            key = key if key in ("file", "timm") else "file"
            raise CellError(
                ("weights",),
                f"weights is a name here, {raw['name']!r}, which has no keys",
                f"write weights={{{key}: {value}}} for --set, or weights: {{{key}: {value}}} in "
                "the grid",
            )
        raise CellError(("weights",), f"weights: cannot read {raw!r}", _MEANT)

    def _timm(self, model: ModelSpec, tag: str | None) -> FromTimm:
        with at_key("weights"):
            check_tag(model.name, tag)
        return FromTimm(tag=tag)

    def _package(self, model: ModelSpec, name: str) -> FromFile:
        key = (name, model.name)
        if key not in self._packages:
            with at_key("weights", "package"):
                self._packages[key] = check_package(name, model.name)
        path, sha256 = str(self._packages[key]), PACKAGES[name].sha256
        return FromFile(path=path, sha256=sha256, package=name)

    def _file(self, raw: Mapping[str, Any]) -> FromFile:
        if not isinstance(raw["file"], str):
            raise CellError(("weights", "file"), f"weights.file is {raw['file']!r}", _MEANT)
        with at_key("weights", "file"):
            path = user_path(raw["file"])
            if path not in self._files:
                self._files[path] = check_weights_file(path)
        found, given = self._files[path], raw.get("sha256", self._files[path])
        if given != found:
            raise CellError(
                ("weights", "sha256"),
                f"weights.sha256 is {given!r}, but the file {path} has {found}",
                "the file is another one or has changed: restore it, or write its own SHA-256",
            )
        stated = {key: raw[key] for key in ("mean", "std") if key in raw}
        if len(stated) == 1:
            raise CellError(
                ("weights",),
                f"weights has {next(iter(stated))} without the other of mean and std",
                "give both, as fractions of 255, or neither",
            )
        try:
            return FromFile(
                path=str(path),
                sha256=found,
                **(stated or _beside_config(path)),
            )
        except ValidationError as error:
            first = error.errors()[0]
            key = str(first["loc"][0])
            raise CellError(
                ("weights", key),
                f"weights.{key} is {stated[key]!r} ({first['msg']})",
                "write three fractions of 255, such as [0.485, 0.456, 0.406]",
            ) from None


def check_weights_file(path: Path) -> str:
    """The SHA-256 of a file of weights that is whole, as far as one can see without torch.

    Raises:
        BenchError: when it is missing, unreadable, torn, or no file of weights.
    """
    kinds = f"give a {', '.join(WEIGHTS_FILES[:-1])} or {WEIGHTS_FILES[-1]} file"
    if not path.is_file():
        there = "a folder, no file" if path.is_dir() else "not there"
        where = "" if path.is_absolute() else f" (looked for in {Path.cwd()})"
        beside = _beside(path)
        raise BenchError(
            f"the weights file {path} is {there}{where}",
            hint=f"{kinds}; there are: {beside}" if beside else kinds,
        )
    if path.suffix not in WEIGHTS_FILES:
        raise BenchError(
            f"the weights file {path} is of another kind ({path.suffix!r})", hint=kinds
        )
    try:
        torn = _torn_safetensors(path) if path.suffix == ".safetensors" else _torn_torch(path)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BenchError(
            f"the weights file {path} cannot be read ({error.strerror})",
            hint="check who may read it",
        ) from None
    if torn:
        raise BenchError(
            f"the weights file {path} {torn}",
            hint="copy it again; it may be incomplete, or a file of another kind",
        )
    return digest


def _beside_config(path: Path) -> dict[str, tuple[float, ...]]:
    """Mean and deviation from the `config.json` that timm keeps beside weights; else nothing.

    Raises:
        CellError: it has such numbers, and they are not three fractions each.
    """
    beside = path.parent / "config.json"
    if not beside.is_file():
        return {}
    try:
        config = json.loads(beside.read_text(encoding="utf-8"))
        config = config.get("pretrained_cfg", config)
        stated = {key: tuple(config[key]) for key in ("mean", "std") if key in config}
        if stated:
            FromFile(path="", sha256="0" * 64, **stated)  # type: ignore[arg-type]
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise CellError(
            ("weights", "file"),
            f"{beside} lies beside the weights and cannot be read ({str(error).splitlines()[0]})",
            "correct it, or state weights.mean and weights.std",
        ) from None
    return stated if len(stated) == 2 else {}


def _beside(path: Path) -> str:
    """Files of weights in the same folder, or in the folder that was given for a file."""
    folder = path if path.is_dir() else path.parent
    try:
        names = [
            one.name for one in folder.iterdir() if one.suffix in WEIGHTS_FILES and one.is_file()
        ]
    except OSError:
        return ""
    return nearest(path.name, names)


def _torn_safetensors(path: Path) -> str | None:
    """What is wrong with the header: 8 bytes of length, JSON of names with their offsets."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else _MOST_HEADER + 1
        if length > min(_MOST_HEADER, size - 8):
            return "is no safetensors file: it does not begin with a header"
        try:
            header = json.loads(file.read(length))
            entries = [entry for name, entry in header.items() if name != "__metadata__"]
            end = max((int(entry["data_offsets"][1]) for entry in entries), default=0)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
            return "is no safetensors file: its header cannot be read"
    if not entries:
        return "holds no weights"
    if 8 + length + end != size:
        return f"is torn: it has {size} bytes and should have {8 + length + end}"
    return None


def _torn_torch(path: Path) -> str | None:
    """What is wrong with the container; its content only torch can read."""
    with path.open("rb") as file:
        start = file.read(16)
    if start.startswith(b"PK"):
        return None if zipfile.is_zipfile(path) else "is torn: its end is missing"
    return None if start.startswith(_OLD_TORCH) else "is no file that torch.save wrote"
