"""Oulu-CASIA NIR & VIS: light, person and expression are folders.

    OriginalImg/NI/Strong/P001/Anger/000.jpeg

SFT §4.3 tests on P001 to P020 and trains on the others (the paper says P021-P060 and also 60
persons; here they are P021-P080), near-infrared images, identities as classes. Its training on two
expressions is `train_where: {expression: [Surprise, Sadness]}`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from bench.data.dataset import Split
from bench.data.files.tree import Tree
from bench.data.formats.contract import Counts, Entry, Format, Option, Options

_LIGHTS = ("Strong", "Weak", "Dark")
_EXPRESSIONS = ("Anger", "Disgust", "Fear", "Happiness", "Sadness", "Surprise")
_IMAGE = re.compile(
    r"(?:(?P<above>.*)/)?(?P<spectrum>NI|VL)(?:_Acropped)?/(?P<light>[A-Za-z]+)/"
    r"(?P<person>P\d{3})/(?P<expression>[A-Za-z]+)/(?P<name>[^/]+\.(?:jpeg|jpg|png|bmp))",
    re.IGNORECASE,
)
_TESTED = tuple(f"P{number:03d}" for number in range(1, 21))


def _read(tree: Tree, options: Options) -> Iterator[Entry]:
    above: set[str] = set()
    sequences: dict[str, int] = {}
    for path in tree.spans:
        found = _IMAGE.fullmatch(path)
        if not found or (options["spectrum"] not in ("all", found["spectrum"])):
            continue
        above.add(found["above"] or "")
        light, expression = found["light"].capitalize(), found["expression"].capitalize()
        if light not in _LIGHTS or expression not in _EXPRESSIONS:
            raise tree.wrong(f"{path!r} has an unknown light or expression")
        if light not in _texts(options["lights"]):
            continue
        entry = _entry(path, found["person"].upper(), expression, options)
        sequence = f"{found['spectrum']}/{light}/{found['person'].upper()}/{expression}"
        sequences[sequence] = sequences.get(sequence, 0) + 1
        if entry is not None:
            facts = {
                "spectrum": found["spectrum"],
                "light": light,
                "identity": found["person"].upper(),
                "expression": expression,
            }
            yield replace(entry, key=f"{sequence}/{found['name']}", facts=tuple(facts.items()))
    if len(above) > 1:
        raise tree.wrong(
            f"two versions of the images lie here ({', '.join(sorted(above))}): root must be one"
        )
    _check_sequences(tree, sequences, options)


def _entry(path: str, person: str, expression: str, options: Options) -> Entry | None:
    """Label, split and group; None where the options leave the image out.

    A person is a group where expressions are the classes. Where persons are, a group would keep
    all images of a class in one split, and nobody could be identified on other images.
    """
    tested = person in _TESTED
    who = options["identities"]
    if who != "all" and tested != (who == "test"):
        return None
    split: Split = "test" if tested and who == "all" else "train"
    if options["label"] == "expression":
        return Entry(path, expression, split, group=person)
    return Entry(path, person, split)


def _check_sequences(tree: Tree, sequences: dict[str, int], options: Options) -> None:
    """Every person shows every expression in every light."""
    if options["partial"]:
        return
    spectra = ("NI", "VL") if options["spectrum"] == "all" else (options["spectrum"],)
    whole = {
        f"{spectrum}/{light}/P{number:03d}/{expression}"
        for spectrum in spectra
        for light in _texts(options["lights"])
        for number in range(1, 81)
        for expression in _EXPRESSIONS
    }
    missing = sorted(whole - set(sequences))
    if missing:
        raise tree.wrong(
            f"{len(missing)} of {len(whole)} sequences are missing, the first {missing[0]}; "
            "it may be half unpacked (options: {partial: true} uses what is there)"
        )


def _texts(value: object) -> tuple[str, ...]:
    return value if isinstance(value, tuple) else (str(value),)


def _counts(options: Options) -> Counts:
    if options["label"] == "expression":
        return Counts(6)
    return Counts({"all": 80, "train": 60, "test": 20}[str(options["identities"])])


OULU_CASIA = Format(
    name="oulu-casia",
    title="Oulu-CASIA NIR & VIS facial expressions",
    read=_read,
    expected="[OriginalImg/]NI/ and VL/ with <light>/P001 to P080/<expression>/*.jpeg",
    marks=("NI", "VL", "OriginalImg", "NI_Acropped", "VL_Acropped", "B_OriginalImg"),
    guesses=("oulu-casia", "Oulu_CASIA_NIR_VIS", "Oulu-CASIA", "OriginalImg", "B_OriginalImg"),
    counts=_counts,
    options={
        "spectrum": Option("NI", "near-infrared, visible light, or both", ("NI", "VL", "all")),
        "lights": Option(_LIGHTS, "which lights", _LIGHTS),
        "label": Option("identity", "what a class is", ("identity", "expression")),
        "identities": Option(
            "all",
            "whose images: train is P021-P080 and test P001-P020, each a pool of its own; all is "
            "both, with P001-P020 as the test split",
            ("train", "test", "all"),
        ),
    },
    classes="80 persons, or 6 expressions",
    images="24,288 / 3,840, says SFT",
    splits="persons P021-P080 train, P001-P020 test",
    used_for="SFT: target for faces (TAR at FAR)",
    where="https://www.oulu.fi/cmvs/node/41316 (Center for Machine Vision, on request)",
    licence="research, after an agreement with the University of Oulu; faces of persons",
    version=2,
)
