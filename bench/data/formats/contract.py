"""What a data set's reader says of itself and of its images, and how one becomes a data set.

A reader is a function from the files (`Tree`) to `Entry`s; everything else (archives, missing
files, counts, hashes, fingerprints) is here, the same for all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from bench.core.errors import DataError, nearest
from bench.core.text import some
from bench.data.dataset import Notes, Split
from bench.data.files.decode import ALPHAS, DEPTHS, Reading
from bench.data.files.mount import is_mountable
from bench.data.files.tree import Archive, Tree, open_tree, signature

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
        more: further columns, as a manifest has them.
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
    more: tuple[tuple[str, str], ...] = ()
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
        return found | {f"group_{name}": value for name, value in self.facts} | dict(self.more)

    @property
    def has_columns(self) -> bool:
        """Whether there are any, which most data sets do not have."""
        return bool(self.boxes or self.facts or self.more)

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
_ALL_HAVE = {
    "merge_names": Option(
        False, "classes, and groups, that differ in spaces, case or Unicode form only are one"
    ),
    "distinct_names": Option(False, "such classes, and groups, are different ones"),
    "depth": Option(
        "check",
        "bits that pixels of 16 and 32 bits use; check refuses those that would be black, "
        "per_image takes the fewest that fit each",
        DEPTHS,
    ),
    "alpha": Option(
        "check",
        "of images that are transparent everywhere: check refuses them, white shows them white, "
        "ignore shows the colours of all images without alpha",
        ALPHAS,
    ),
    "max_megapixels": Option(
        Reading.max_megapixels, "the largest image that is decoded, in millions of pixels"
    ),
    "boxes": Option(
        "", "a CSV file in the data set's folder with the columns path,box_NAME,… for views"
    ),
}
READING = ("depth", "alpha", "max_megapixels")
"""Options that say how pixels are read; the others but `boxes` say which images there are."""


@dataclass(frozen=True, kw_only=True)
class Listed:
    """What `bench data list` shows of a data set.

    Attributes:
        name: as a grid says it.
        title: what it is.
        expected: the layout in words.
        classes, images, splits: in words; of a format, what its counts say where they are empty.
        used_for: by which paper, for what; "your own comparisons" where by none.
        where: to get it.
        licence: a note; what counts is what the authors say.
    """

    name: str
    title: str
    used_for: str
    where: str
    licence: str
    expected: str = "there are no files: it is part of this program"
    classes: str = ""
    images: str = ""
    splits: str = ""

    def all_options(self) -> dict[str, Option]:
        """Choices by name; there are none without files."""
        return {}


@dataclass(frozen=True, kw_only=True)
class Format(Listed):
    """A data set of files, in the layout in which its authors distribute it or a user has it.

    Attributes:
        read: from its files to its images.
        marks: paths below the root of which one must be there; patterns are allowed.
        folders: patterns of the folders of the root that are looked into; None is all.
        archives: what may still be packed.
        inner: folder that archives have around everything.
        guesses: how its folder is usually called.
        counts: of the whole set, under the options.
        options: choices by name, besides those that all have.
        files: patterns of files that may be the root, besides the archives.
        tree_of: where its files are, if not simply below the root.
        counts_the_rest: whether files that are none of its images are counted in the notes.
        may_be_partial: whether `partial` is one of its options.
        says_where: whether errors say where to get it.
        version: of the reader; raise it when it reads the same files differently.
    """

    read: Callable[[Tree, Options], Iterable[Entry]]
    marks: tuple[str, ...]
    guesses: tuple[str, ...] = ()
    folders: tuple[str, ...] | None = None
    archives: tuple[Archive, ...] = ()
    inner: tuple[str, ...] = ()
    counts: Callable[[Options], Counts] = lambda options: Counts()
    options: Mapping[str, Option] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    tree_of: Callable[[Path, str], Tree] | None = None
    counts_the_rest: bool = False
    may_be_partial: bool = True
    says_where: bool = True
    version: int = 1

    def __post_init__(self) -> None:
        counts = self.counts(self.chosen(()))
        derived = {
            "classes": f"{counts.classes:,}" if counts.classes else "",
            "images": " / ".join(f"{count:,}" for count in counts.images.values()),
            "splits": ", ".join(counts.images),
        }
        for name, text in derived.items():
            if not getattr(self, name):
                object.__setattr__(self, name, text)

    @property
    def hint(self) -> str:
        """What was expected and where to get it."""
        return f"expected {self.expected_from}"

    @property
    def expected_from(self) -> str:
        """The layout, and where to get the data."""
        return f"{self.expected}; get it: {self.where}" if self.says_where else self.expected

    def signature(self, root: Path) -> str:
        """That of its tree, which changes when a file does."""
        if self.tree_of is not None:
            return self.tree_of(root, self.hint).signature
        return signature(root, self.folders)

    def tree(self, root: Path, cache_dir: Path) -> Tree:
        """Its files.

        Raises:
            DataError: for torn or unsafe archives, and for links that lead in circles.
        """
        if self.tree_of is not None:
            return self.tree_of(root, self.hint)
        return open_tree(
            root,
            cache_dir,
            folders=self.folders,
            archives=self.archives,
            inner=self.inner,
            hint=self.hint,
        )

    def fits(self, path: Path) -> bool:
        """Whether the data set could lie at `path`: its marks, or archives of it, are there."""
        if path.is_file():
            packed = [archive.name for archive in self.archives] if is_mountable(path) else []
            return any(
                fnmatchcase(name, pattern)
                for name, patterns in ((path.name, packed), (path.name.lower(), self.files))
                for pattern in patterns
            )
        names = (*self.marks, *(archive.name for archive in self.archives))
        return path.is_dir() and any(_is_there(path, name) for name in names)

    def all_options(self) -> dict[str, Option]:
        """Its own and those that every data set has."""
        partial = {"partial": _PARTIAL} if self.may_be_partial else {}
        return {**self.options, **partial, **_ALL_HAVE}

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
        if isinstance(option.default, str) and type(value) is int:  # a depth such as 12
            value = str(value)
        parts = value if isinstance(value, tuple) else (value,)
        wrong = [part for part in parts if option.choices and part not in option.choices]
        wrong += [part for part in parts if type(part) is int and part < 1 and not option.choices]
        if type(value) is not type(option.default) or wrong:
            shown = wrong[0] if wrong else value
            kind = {bool: "true or false", int: "a whole number above 0", str: "a text"}
            allowed = nearest(str(shown), map(str, option.choices)) if option.choices else ""
            raise DataError(
                f"option {name} of data set {self.name!r}: {shown!r} is not allowed",
                hint=f"{option.about}; "
                + (allowed or kind.get(type(option.default), "a list of texts")),
            )
        return value

    def checked(
        self, tree: Tree, entries: Iterable[Entry], options: Options
    ) -> tuple[list[Entry], Notes]:
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
            unwritable = "\n" in entry.label or "\0" in entry.label or not _is_utf8(entry.label)
            if not entry.label or unwritable:
                raise tree.wrong(f"{entry.name!r} has the class {entry.label!r}, which is no name")
        there = [entry for entry in listed if entry.path in tree.spans]
        absent = sorted({entry.path for entry in listed} - set(tree.spans))
        partial = (
            "or use what is there with options: {partial: true}, on the command line "
            "--option partial=true"
        )
        missing = (
            f"{len(absent):,} of {len(listed):,} listed images are missing: {some(absent, limit=3)}"
        )
        notes = _passed_over(tree, there) if self.counts_the_rest else {}
        if options.get("partial"):
            return there, notes | ({"listed_images_missing": missing} if absent else {})
        if absent:
            raise DataError(
                f"data set {self.name!r}: {missing}",
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
        return there, notes


def _passed_over(tree: Tree, entries: Iterable[Entry]) -> Notes:
    """How many files of the tree are none of the images, by their suffixes."""
    used = tree.used | {entry.path for entry in entries}
    kinds = suffixes(path for path in tree.spans if path not in used)
    return {"files_passed_over": kinds} if kinds else {}


def suffixes(paths: Iterable[str]) -> str:
    """How many files there are of each kind, by their suffixes.

    >>> suffixes(["a/b.txt", "c.TXT", "d"])
    '2 .txt, 1 without a suffix'
    """
    counts = Counter(PurePosixPath(path).suffix.lower() for path in paths)
    return ", ".join(f"{n:,} {kind or 'without a suffix'}" for kind, n in counts.most_common())


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_there(folder: Path, name: str) -> bool:
    if any(sign in name for sign in "*?["):
        return next(folder.glob(name), None) is not None
    return (folder / name).exists()
