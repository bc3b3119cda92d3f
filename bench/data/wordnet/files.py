"""WordNet's own database files, `data.noun` and `index.noun`, read as they are.

The order of the hypernym pointers in `data.noun` is part of the class selection rules (the first
pointer of a synset is its main hypernym), and nltk's reader loses it: it keeps pointers in a set,
so their order changes with PYTHONHASHSEED. The format is described in the manual page wndb(5WN).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.core.errors import DataError

_HYPERNYM_POINTERS = ("@", "@i")
_WNID = re.compile(r"n[0-9]{8}")
_VERSION = b"WordNet 3.0 Copyright"


@dataclass(frozen=True, slots=True)
class Synset:
    """A set of synonymous nouns.

    Attributes:
        wnid: `n` and the synset's offset in WordNet 3.0's data.noun, for example n02084071.
        name: as nltk writes it, `dog.n.01`: first lemma, part of speech, number of the sense.
        lemmas: the words, with underscores for spaces.
        hypernyms: wnids that this synset is a kind of (or an instance of), in data.noun's order.
    """

    wnid: str
    name: str
    lemmas: tuple[str, ...]
    hypernyms: tuple[str, ...]


class NounFiles:
    """The nouns of WordNet 3.0.

    Args:
        data: the bytes of `data.noun`.
        index: the bytes of `index.noun`.
        place: where they were found, for errors.

    Raises:
        DataError: if the files are of another version, where the same offset is another synset.
    """

    def __init__(self, data: bytes, index: bytes, place: str) -> None:
        if _VERSION not in data[:4096]:
            raise DataError(
                "these WordNet files are not of version 3.0",
                place=place,
                hint="ImageNet's class numbers are offsets in WordNet 3.0: use its files",
            )
        self._data, self._place = data, place
        self._senses = dict(_sense_offsets(index))

    def by_wnid(self, wnid: str) -> Synset | None:
        """The synset at this offset; None if none begins there."""
        if _WNID.fullmatch(wnid) is None:
            return None
        start = int(wnid[1:])
        line = self._data[start : self._data.find(b"\n", start)].decode("utf-8")
        if not line.startswith(f"{wnid[1:]} "):
            return None
        lemmas, hypernyms = _parse(line)
        first = lemmas[0].lower()
        sense = self._senses[first].index(start) + 1
        return Synset(wnid, f"{first}.n.{sense:02d}", lemmas, hypernyms)

    def by_name(self, name: str) -> Synset | None:
        """The synset of a word's sense, `dog.n.01`; None if there is no such sense.

        Any of a synset's words will do, as in nltk: `domestic_dog.n.01` is `dog.n.01`.
        """
        word, _, rest = name.rpartition(".n.")
        senses = self._senses.get(word.lower(), ())
        if not rest.isdigit() or not 1 <= int(rest) <= len(senses):
            return None
        return self.by_wnid(f"n{senses[int(rest) - 1]:08d}")

    def senses(self, word: str) -> tuple[str, ...]:
        """The names of all senses of a word, the most frequent first."""
        found = (self.by_wnid(f"n{offset:08d}") for offset in self._senses.get(word.lower(), ()))
        return tuple(synset.name for synset in found if synset is not None)


def files_in(folder: Path) -> NounFiles:
    """Reads `data.noun` and `index.noun` of a folder.

    Raises:
        DataError: when one of them is not there, or is not of WordNet 3.0.
    """
    for name in ("data.noun", "index.noun"):
        if not (folder / name).is_file():
            raise DataError(
                f"there is no {name}",
                place=str(folder),
                hint="give WordNet's dictionary folder; Debian's package wordnet-base puts it in "
                "/usr/share/wordnet",
            )
    return NounFiles(
        (folder / "data.noun").read_bytes(), (folder / "index.noun").read_bytes(), str(folder)
    )


def installed_files() -> NounFiles | None:
    """The WordNet of nltk, if it is installed and its data are there; None if not.

    Only nltk's way to find its data is used, not its reader; see this module's docstring. A corpus
    that was left zipped is read where it is.

    Raises:
        DataError: when the data are there and cannot be read, or are not of WordNet 3.0.
    """
    try:
        import nltk.data
    except ImportError:
        return None
    for place in ("corpora/wordnet", "corpora/wordnet.zip/wordnet/"):
        try:
            folder = nltk.data.find(place)
        except LookupError:
            continue
        try:
            contents = []
            for name in ("data.noun", "index.noun"):
                with folder.join(name).open() as file:
                    contents.append(file.read())
        except OSError as error:
            raise DataError(
                f"nltk's WordNet cannot be read: {error}",
                place=str(folder),
                hint="fetch it anew: python -m nltk.downloader --force wordnet",
            ) from error
        return NounFiles(contents[0], contents[1], str(folder))
    return None


def _sense_offsets(index: bytes) -> Iterator[tuple[str, tuple[int, ...]]]:
    """For every word its senses' offsets, in sense order.

    A line is: word pos synset_count pointer_count symbol... sense_count tagged_count offset...
    """
    for line in index.decode("utf-8").splitlines():
        if line.startswith(" "):
            continue
        fields = line.split()
        count = int(fields[2])
        yield fields[0], tuple(int(offset) for offset in fields[-count:])


def _parse(line: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Words and hypernyms of a line of data.noun.

    A line is: offset file_number type word_count(hexadecimal) {word id}... pointer_count
    {symbol offset pos source/target}... | gloss
    """
    fields = line.split(" | ")[0].split()
    words = int(fields[3], 16)
    lemmas = tuple(fields[4 : 4 + 2 * words : 2])
    at = 4 + 2 * words
    pointers = (fields[at + 1 + 4 * n :][:2] for n in range(int(fields[at])))
    hypernyms = tuple(f"n{to}" for symbol, to in pointers if symbol in _HYPERNYM_POINTERS)
    return lemmas, hypernyms
