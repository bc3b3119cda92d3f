"""The files of a data set as its authors laid them out, unpacked or still in their archives."""

from __future__ import annotations

import csv
import io
import json
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from bench.core.errors import DataError
from bench.core.text import some
from bench.data.dataset import digest
from bench.data.files.files import begins_like_image, is_image, placeholder, walk
from bench.data.files.mount import Span, is_mountable, mounted


@dataclass(frozen=True, slots=True)
class Archive:
    """An archive that a data set is distributed in.

    Attributes:
        name: of the file, with its folder below the root; may be a pattern such as `train/n*.tar`.
        gives: what unpacking it gives, below the folder it is unpacked into, as the beginning of a
            path; where that is there already, the archive is not looked at.
        into: the folder it is unpacked into, below the one it lies in; `{stem}` is its own name.
        nested: archives in it are unpacked too, each into a folder of its own name.
    """

    name: str
    gives: str
    into: str = ""
    nested: bool = False

    def folder(self, path: str) -> str:
        """Where its members appear: below the folder of `path`, with a slash unless empty."""
        above, _, name = path.rpartition("/")
        parts = (above, self.into.format(stem=name.partition(".")[0]))
        return "".join(f"{part}/" for part in parts if part)


@dataclass(frozen=True, eq=False)
class Tree:
    """Files by posix path.

    Attributes:
        place: the root, for messages.
        spans: where each file lies, sorted by path.
        hint: what was expected and where to get it; the way out of every error.
        signature: changes when a file of the tree does.
        empty: folders with nothing in them, each with a slash at the end.
        used: the files that were read, besides the images.
    """

    place: Path
    spans: Mapping[str, Span]
    hint: str
    signature: str
    empty: tuple[str, ...] = ()
    used: set[str] = field(default_factory=set)

    def wrong(self, message: str, path: str = "", line: int | None = None) -> DataError:
        """An error at a file of the tree, with what was expected and where to get it."""
        place = f"{self.place}/{path}" if path else str(self.place)
        return DataError(
            message, place=place if line is None else f"{place}:{line}", hint=self.hint
        )

    def first(self, *paths: str) -> str:
        """The first of `paths` that is there.

        Raises:
            DataError: when none is, saying what there is instead.
        """
        for path in paths:
            if path in self.spans:
                return path
        tops = sorted({path.partition("/")[0] for path in self.spans})
        raise self.wrong(f"{paths[0]} is missing; found: {some(tops) or 'nothing'}")

    def read(self, path: str) -> bytes:
        """The bytes of a file that must be there."""
        span = self.spans[self.first(path)]
        self.used.add(path)
        try:
            data = span.read()
        except OSError as error:
            raise self.wrong(f"cannot be read ({error.strerror})", path) from error
        if instead := placeholder(data):
            raise self.wrong(f"is {instead}", path)
        return data

    def is_image(self, path: str) -> bool:
        """Whether a file is an image, by its name or else by how it begins."""
        if is_image(path):
            return True
        span = self.spans[path]
        head = span.part((0, 16 if span.size is None else min(16, span.size)))
        return begins_like_image(head.read())

    def json(self, path: str) -> dict[str, Any]:
        """A JSON object that must be there."""
        return self.json_object(self.read(path), path)

    def json_object(self, text: str | bytes, path: str, line: int | None = None) -> dict[str, Any]:
        """The JSON object of a text that stands in `path`."""
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self.wrong(f"is no JSON ({error})", path, line) from error
        if not isinstance(found, dict):
            raise self.wrong("is no JSON object", path, line)
        return found

    def text(self, path: str) -> str:
        """A file that must be there and be UTF-8."""
        try:
            return self.read(path).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise self.wrong("is not a UTF-8 text", path) from error

    def rows(self, path: str) -> Iterator[tuple[int, dict[str, str | None]]]:
        """Line and columns of a CSV file with a heading.

        Raises:
            DataError: when the file is missing, not UTF-8 or no CSV.
        """
        reader = csv.DictReader(io.StringIO(self.text(path), newline=""))
        try:
            for row in reader:
                yield reader.line_num, row
        except csv.Error as error:
            raise self.wrong(f"is no CSV ({error})", path, reader.line_num) from error

    def lines(self, path: str) -> Iterator[tuple[int, str]]:
        """Number and text of the lines that are not empty.

        Raises:
            DataError: when the file is missing or not UTF-8.
        """
        for number, line in enumerate(self.text(path).splitlines(), start=1):
            if line.strip():
                yield number, line.strip()

    def fields(self, path: str, count: int) -> Iterator[tuple[int, list[str]]]:
        """Number and fields of the lines, split at white space; the last field keeps its spaces.

        Raises:
            DataError: with the line, when one has fewer.
        """
        for number, line in self.lines(path):
            parts = line.split(maxsplit=count - 1)
            if len(parts) < count:
                raise self.wrong(f"{line!r} has not {count} fields", path, number)
            yield number, parts

    def below(self, prefix: str) -> list[str]:
        """The paths that begin with `prefix`, sorted."""
        return [path for path in self.spans if path.startswith(prefix)]


def open_tree(
    root: Path,
    cache_dir: Path,
    *,
    folders: Iterable[str] | None,
    archives: Iterable[Archive],
    inner: Iterable[str],
    hint: str,
) -> Tree:
    """The files below `root`; members of known archives appear as if they were unpacked.

    Args:
        root: a folder, or one of the archives.
        cache_dir: tables of archives are kept below it.
        folders: patterns of the folders of `root` that are looked into; None is all.
        archives: what may still be packed.
        inner: folders that may lie around everything; the first that does is left out of the names.
            `*` is any folder that lies around all files of an archive.
        hint: see `Tree`.

    Raises:
        DataError: for torn or unsafe archives, and for links that lead in circles.
    """
    known = tuple(archives)
    empty: tuple[str, ...] = ()
    found = list(_looked(root, folders))
    if root.is_file():
        entry = next((one for one in known if fnmatchcase(root.name, one.name)), None)
        nested = entry is not None and entry.nested
        spans = mounted(root, cache_dir, nested=nested)
    else:
        spans = {path: Span(f"{root}/{path}") for path, _, _ in found if path[-1] != "/"}
        empty = tuple(path for path, _, _ in found if path[-1] == "/")
        _mount(root, cache_dir, known, spans)
    spans = _without(spans, tuple(inner), packed=root.is_file())
    return Tree(root, dict(sorted(spans.items())), hint, _signed(found), empty)


_File = tuple[str, int, int]
"""Path, size in bytes, and modification time in ns."""


def signature(root: Path, folders: Iterable[str] | None) -> str:
    """That of the tree that `open_tree` gives; nothing is kept, for a million files."""
    return _signed(_looked(root, folders))


def _signed(files: Iterable[_File]) -> str:
    return digest(f"{path}|{size}|{mtime_ns}" for path, size, mtime_ns in files)


def _looked(root: Path, folders: Iterable[str] | None) -> Iterator[_File]:
    """The files on the disk, in one order."""
    if root.is_file():
        info = root.stat()
        yield root.name, info.st_size, info.st_mtime_ns
    elif folders is None:
        yield from walk(root)
    else:
        yield from _walked(root, tuple(folders))


def _walked(root: Path, folders: tuple[str, ...]) -> Iterator[_File]:
    seen: dict[tuple[int, int], str] = {}
    for entry in sorted(root.iterdir()):
        name = entry.name
        if name.startswith("."):
            continue
        if entry.is_dir():
            if any(fnmatchcase(name, pattern) for pattern in folders):
                yield from walk(entry, f"{name}/", seen)
        elif entry.is_file():
            info = entry.stat()
            yield name, info.st_size, info.st_mtime_ns


def _mount(root: Path, cache_dir: Path, known: tuple[Archive, ...], spans: dict[str, Span]) -> None:
    unpacked = sorted(spans)
    for path in unpacked:
        if not is_mountable(Path(path)):
            continue
        archive = next((one for one in known if fnmatchcase(path, one.name)), None)
        if archive is None:
            continue
        folder = archive.folder(path)
        if not _any_below(unpacked, folder + archive.gives):
            for name, span in mounted(root / path, cache_dir, nested=archive.nested).items():
                spans.setdefault(folder + name, span)
        del spans[path]


def _any_below(ordered: list[str], prefix: str) -> bool:
    at = bisect_left(ordered, prefix)
    return at < len(ordered) and ordered[at].startswith(prefix)


def _without(spans: dict[str, Span], inner: tuple[str, ...], *, packed: bool) -> dict[str, Span]:
    for folder in inner:
        if folder == "*":
            tops = {path.partition("/")[0] for path in spans}
            if not packed or len(tops) != 1 or min(tops) in spans:
                continue
            (folder,) = tops
        prefix = f"{folder}/"
        if any(path.startswith(prefix) for path in spans):
            return {path.removeprefix(prefix): span for path, span in spans.items()}
    return spans
