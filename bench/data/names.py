"""Names that look alike: classes and groups that differ in spaces, case or Unicode form only."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from bench.core.errors import DataError
from bench.core.text import counted, some
from bench.data.dataset import Notes
from bench.data.formats.contract import Entry, Options


def look(name: str) -> str:
    """What is left of a name without spaces at its ends, case, and invisible characters.

    >>> look(" Cat") == look("cat"), look("e\\u0301") == look("\\u00e9"), look("cat") == look("cut")
    (True, True, False)
    """
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
    shown = "".join(sign for sign in folded if unicodedata.category(sign) != "Cf")
    return " ".join(shown.split())


def one_spelling(entries: list[Entry], place: str, options: Options) -> tuple[list[Entry], Notes]:
    """The entries with one spelling of every class and group.

    With `merge_names` the spelling that most images have is that of all, and the notes say so;
    with `distinct_names` they are different names.

    Raises:
        DataError: for names that look alike, with their bytes, unless an option says what they are.
    """
    if options["distinct_names"]:
        return entries, {}
    labels = _spellings("classes", [entry.label for entry in entries])
    groups = _spellings("groups", [entry.group for entry in entries if entry.group is not None])
    lines = [line for kind in (labels, groups) for line in kind[1]]
    if not lines:
        return entries, {}
    if not options["merge_names"]:
        raise DataError(
            f"{counted(len(lines), 'name is', 'names are')} spelt in several ways: {some(lines)}",
            place=place,
            hint="spell each in one way; or options: {merge_names: true} takes them for one, and "
            "{distinct_names: true} for different ones (on the command line --option "
            "merge_names=true)",
        )
    merged = [
        replace(
            entry,
            label=labels[0].get(entry.label, entry.label),
            group=None if entry.group is None else groups[0].get(entry.group, entry.group),
        )
        for entry in entries
    ]
    return merged, {"merged_names": lines}


def _spellings(kind: str, names: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The spelling that stays, by those that look like it; and the lines that say so."""
    alike: dict[str, list[str]] = {}
    counts = Counter(names)
    for name in sorted(counts, key=lambda name: (-counts[name], name)):
        alike.setdefault(look(name), []).append(name)
    several = [spelt for spelt in alike.values() if len(spelt) > 1]
    lines = [
        f"{kind} {' and '.join(f'{name!r} ({name.encode()!r})' for name in spelt)}"
        for spelt in several
    ]
    return {name: spelt[0] for spelt in several for name in spelt}, lines
