"""What a data set's reader says of itself and of its images, and how one becomes a data set.

A reader is a function from the files (`Tree`) to `Entry`s; everything else (archives, missing
files, counts, hashes, fingerprints) is here, the same for all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from bench.core.errors import DataError, nearest
from bench.core.text import some
from bench.data.dataset import Split
from bench.data.files.mount import is_mountable
from bench.data.files.tree import Archive, Tree

Value = str | bool | int | tuple[str, ...]
Options = Mapping[str, Value]
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Entry:
    """One image as the data set's own files describe it.

    Attributes:
        path: of its file in the tree.
        label: name of its class.
        split: that the data set itself puts it in; "train" where it says nothing.
        key: its name, the same however the set is packed; empty for the path.
        group: images of one group never stand in two splits.
        boxes: (left, top, right, bottom) in pixels from the upper left corner, right and bottom
            excluded.
        facts: what images have in common besides the class, such as ("light", "Dark").
        crop: the image is this part of the file; what lies outside the file is mirrored.
        span: offset and size of the image's bytes in the file; None for all of it.
    """

    path: str
    label: str
    split: Split = "train"
    key: str = ""
    group: str | None = None
    boxes: tuple[Box, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    crop: tuple[int, int, int, int] | None = None
    span: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        """The key."""
        return self.key or self.path

    def columns(self) -> dict[str, str]:
        """As a manifest would have them: `box`, `box_2`, … and `group_NAME` of each fact.

        >>> Entry("a.jpg", "a", boxes=((1, 2, 4, 6.5),)).columns()
        {'box': '1 2 3 4.5'}
        """
        found = {}
        for number, (left, top, right, bottom) in enumerate(self.boxes, start=1):
            sides = (left, top, right - left, bottom - top)
            name = "box" if number == 1 else f"box_{number}"
            found[name] = " ".join(f"{side:.10g}" for side in sides)
        return found | {f"group_{name}": value for name, value in self.facts}

    @property
    def source(self) -> str:
        """What is hashed: the file, or bytes of it."""
        return self.path if self.span is None else f"{self.path}@{self.span[0]}+{self.span[1]}"


@dataclass(frozen=True)
class Counts:
    """What the whole data set has; None where its authors do not say."""

    classes: int | None = None
    images: Mapping[Split, int] = field(default_factory=dict)

    def differences(self, entries: Iterable[Entry]) -> list[str]:
        """In words, what differs from what was read."""
        entries = list(entries)
        classes = len({entry.label for entry in entries})
        found = Counter(entry.split for entry in entries)
        wrong = []
        if self.classes is not None and classes != self.classes:
            wrong.append(f"{classes:,} classes (expected {self.classes:,})")
        for split, count in self.images.items():
            if found[split] != count:
                wrong.append(f"{found[split]:,} {split} images (expected {count:,})")
        return wrong


@dataclass(frozen=True)
class Option:
    """A choice that a data set leaves to its user.

    Attributes:
        default: a value of the type that others must have.
        about: what it does, in a line.
        choices: the values allowed (of a list: of each element); empty for any.
    """

    default: Value
    about: str
    choices: tuple[str | int, ...] = ()


_PARTIAL = Option(False, "use what is there, although images, classes or whole splits are missing")


@dataclass(frozen=True)
class Format:
    """A data set in the layout in which its authors distribute it.

    Attributes:
        name: as a grid says it.
        title: what it is.
        read: from its files to its images.
        expected: the layout in words.
        marks: paths below the root of which one must be there; patterns are allowed.
        folders: patterns of the folders of the root that are looked into; None is all.
        archives: what may still be packed.
        inner: folder that archives have around everything.
        guesses: how its folder is usually called.
        counts: of the whole set, under the options.
        options: choices by name, besides `partial`.
        classes, images, splits: for a list of data sets, in words.
        used_for: by which paper, for what; "your own comparisons" where by none.
        where: to get it.
        licence: a note; what counts is what the authors say.
        version: of the reader; raise it when it reads the same files differently.
    """

    name: str
    title: str
    read: Callable[[Tree, Options], Iterable[Entry]]
    expected: str
    marks: tuple[str, ...]
    guesses: tuple[str, ...]
    classes: str
    images: str
    splits: str
    used_for: str
    where: str
    licence: str
    folders: tuple[str, ...] | None = None
    archives: tuple[Archive, ...] = ()
    inner: tuple[str, ...] = ()
    counts: Callable[[Options], Counts] = lambda options: Counts()
    options: Mapping[str, Option] = field(default_factory=dict)
    version: int = 1

    @property
    def hint(self) -> str:
        """What was expected and where to get it."""
        return f"expected {self.expected_from}"

    @property
    def expected_from(self) -> str:
        """The layout, and where to get the data."""
        return f"{self.expected}; get it: {self.where}"

    def fits(self, path: Path) -> bool:
        """Whether the data set could lie at `path`: its marks, or archives of it, are there."""
        if path.is_file():
            return is_mountable(path) and any(
                fnmatchcase(path.name, archive.name) for archive in self.archives
            )
        names = (*self.marks, *(archive.name for archive in self.archives))
        return path.is_dir() and any(_is_there(path, name) for name in names)

    def all_options(self) -> dict[str, Option]:
        """Its own and those that every data set has."""
        return {**self.options, "partial": _PARTIAL}

    def chosen(self, given: Iterable[tuple[str, Value]]) -> dict[str, Value]:
        """The options with every default written in.

        Raises:
            DataError: for an unknown option or a value that it cannot have.
        """
        known = self.all_options()
        values = {name: option.default for name, option in known.items()}
        for name, value in given:
            if name not in known:
                raise DataError(
                    f"data set {self.name!r} has no option {name!r}",
                    hint=f"its options: {nearest(name, known)}",
                )
            values[name] = self._value(name, known[name], value)
        return values

    def _value(self, name: str, option: Option, value: Value) -> Value:
        if isinstance(option.default, tuple) and isinstance(value, str):
            value = (value,)
        parts = value if isinstance(value, tuple) else (value,)
        wrong = [part for part in parts if option.choices and part not in option.choices]
        if type(value) is not type(option.default) or wrong:
            shown = wrong[0] if wrong else value
            kind = {bool: "true or false", int: "a whole number", str: "a text"}
            allowed = nearest(str(shown), map(str, option.choices)) if option.choices else ""
            raise DataError(
                f"option {name} of data set {self.name!r}: {shown!r} is not allowed",
                hint=f"{option.about}; "
                + (allowed or kind.get(type(option.default), "a list of texts")),
            )
        return value

    def checked(
        self, tree: Tree, entries: Iterable[Entry], options: Options
    ) -> tuple[list[Entry], dict[str, Any]]:
        """The entries whose files are there, and counts of what is not.

        Raises:
            DataError: when files or images are missing and `partial` does not say that they may.
        """
        listed = list(entries)
        names = Counter(entry.name for entry in listed)
        twice = [name for name, count in names.items() if count > 1]
        if twice:
            raise tree.wrong(f"{len(twice)} images are listed twice: {some(twice)}")
        for entry in listed:
            if not entry.label or "\n" in entry.label or "\0" in entry.label:
                raise tree.wrong(f"{entry.name!r} has the class {entry.label!r}, which is no name")
        there = [entry for entry in listed if entry.path in tree.spans]
        absent = sorted({entry.path for entry in listed} - set(tree.spans))
        if options["partial"]:
            named = some(absent, limit=3)
            return there, {"listed_images_missing": f"{len(absent):,}: {named}"} if absent else {}
        partial = (
            "or use what is there with options: {partial: true}, on the command line "
            "--option partial=true"
        )
        if absent:
            raise DataError(
                f"data set {self.name!r}: {len(absent):,} of {len(listed):,} listed images are "
                f"missing: {some(absent, limit=3)}",
                place=str(tree.place),
                hint=f"{tree.hint}. It may be half unpacked: unpack it again, {partial}",
            )
        wrong = self.counts(options).differences(there)
        if wrong:
            raise DataError(
                f"data set {self.name!r}: found {', '.join(wrong)}",
                place=str(tree.place),
                hint=f"{tree.hint}. It may be incomplete or another version: compare it, {partial}",
            )
        return there, {}


def _is_there(folder: Path, name: str) -> bool:
    if any(sign in name for sign in "*?["):
        return next(folder.glob(name), None) is not None
    return (folder / name).exists()
