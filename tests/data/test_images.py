"""Selections over columns of a table against the definition, written over lists of images."""

from __future__ import annotations

import hashlib
import random
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.core.errors import DataError
from bench.data.catalog import fingerprint
from bench.data.dataset import Image
from bench.data.datasets import DATASETS
from bench.data.files.mount import Span
from bench.data.files.table import Row, Table, write
from bench.data.selection.images import Images
from bench.data.selection.pools import Pool
from bench.data.selection.splits import split_pools
from bench.specs.data import DataSpec, validation_images

Where = Callable[[Image], bool]


@dataclass
class Literal:
    """The splits of some classes, image by image, as `bench.data.selection.splits` defines them."""

    classes: dict[str, list[Image]]
    given_test: bool
    taken: set[str] = field(default_factory=set)
    closed: set[str | None] = field(default_factory=set)
    left_out: set[str] = field(default_factory=set)
    notes: dict[str, int] = field(default_factory=dict)
    where: Where = lambda _: True

    def __post_init__(self) -> None:
        every = [image for images in self.classes.values() for image in images]
        tested = {i.sha256 for i in every if self.given_test and i.split == "test"}
        owner: dict[str, Image] = {}
        self.dropped = set()
        for image in sorted(every, key=lambda image: (image.split != "val", image.key)):
            if image.split == "test":
                continue
            if image.sha256 in tested:
                self.drop(image, "equal_to_test")
            elif image.sha256 in owner:
                self.drop(image, "duplicates")
                if owner[image.sha256].label != image.label:
                    self.note("dropped_duplicates_with_other_label")
            else:
                owner[image.sha256] = image

    def note(self, name: str) -> None:
        self.notes[name] = self.notes.get(name, 0) + 1

    def drop(self, image: Image, why: str) -> None:
        self.note(f"dropped_{why}")
        self.dropped.add(image.key)

    def ordered(self, label: str, salt: str, *parts: str) -> list[Image]:
        def rank(text: str) -> str:
            return hashlib.sha256(f"{salt}|{text}".encode()).hexdigest()

        def place(image: Image) -> tuple[str, str]:
            own = rank(image.key)
            return (own if image.group is None else rank(f"group|{image.group}"), own)

        return sorted((i for i in self.classes[label] if i.split in parts), key=place)

    def usable(self, image: Image) -> bool:
        return image.key not in self.taken | self.dropped and self.where(image)

    def free(self, label: str, salt: str, *parts: str) -> Iterator[Image]:
        for image in self.ordered(label, salt, *parts):
            if self.usable(image):
                if image.group in self.closed:
                    self.left_out.add(image.key)
                else:
                    yield image

    def close(self, picked: dict[str, list[Image]]) -> None:
        for images in picked.values():
            self.taken |= {image.key for image in images}
            self.closed |= {image.group for image in images} - {None}

    def available(self, *parts: str) -> dict[str, int]:
        return {
            label: sum(
                i.split in parts and self.usable(i) and i.group not in self.closed for i in images
            )
            for label, images in self.classes.items()
        }

    def take(self, salt: str, part: str, count: int | None) -> dict[str, list[Image]]:
        picked = {}
        for label in self.classes:
            picked[label] = []
            for image in self.free(label, salt, part) if count != 0 else ():
                picked[label].append(image)
                if len(picked[label]) == count:
                    break
        self.close(picked)
        return picked

    def take_budget(self, salt: str, count: int, share: float) -> list[dict[str, list[Image]]]:
        """Turn by turn, each class the next free image whose group is not the other use's."""
        owners: dict[str | None, str] = {}
        lines = {label: self.free(label, salt, "train", "val") for label in self.classes}
        passed: dict[tuple[str, str], list[Image]] = {}
        taken: dict[str, dict[str, list[Image]]] = {
            use: {label: [] for label in self.classes} for use in ("train", "val")
        }
        for n in range(1, count + 1):
            use = (
                "val" if validation_images(n, share) > validation_images(n - 1, share) else "train"
            )
            for label, line in lines.items():
                waiting = passed.setdefault((label, use), [])
                if waiting:
                    taken[use][label].append(waiting.pop(0))
                    continue
                for image in line:
                    own = use if image.group is None else owners.setdefault(image.group, use)
                    if own == use:
                        taken[use][label].append(image)
                        break
                    passed.setdefault((label, own), []).append(image)
        self.left_out |= {image.key for images in passed.values() for image in images}
        for picked in taken.values():
            self.close(picked)
        return [taken["train"], taken["val"]]


def literal_splits(images: list[Image], data: DataSpec, draw: int, where: Where) -> Any:
    """What `split_pools` gives with `on_short: drop_class`; None where nothing is left."""
    if data.test_from == "val":
        images = [replace(i, split="test") if i.split == "val" else i for i in images]
    classes = {label: [i for i in images if i.label == label] for label in _labels(images)}
    given_test = data.test_from in ("given", "val")
    own_val = any(i.split == "val" for i in images)
    assert not isinstance(data.test_per_class, float)
    one = Literal(classes, given_test)
    test = one.take("test", "test" if given_test else "train", data.test_per_class)
    one.where = where
    salt = f"images|{draw}"
    if data.val_from == "budget":
        available = one.available("train", "val")
        assert data.images_per_class is not None
        train, val = one.take_budget(salt, data.images_per_class, data.val_share)
        held = max(1, validation_images(data.images_per_class, data.val_share))
        wanted: tuple[int | None, ...] = (max(1, data.images_per_class - held), held)
    else:
        val = one.take(salt, "val" if own_val else "train", data.val_per_class)
        available = one.available("train")
        train = one.take(salt, "train", data.images_per_class)
        wanted = (data.images_per_class, data.val_per_class)
    if one.left_out:
        one.notes["left_out_group_in_other_split"] = len(one.left_out)
    parts = [(train, wanted[0]), (val, wanted[1]), (test, data.test_per_class)]
    left = [
        label
        for label in classes
        if all(len(part[label]) >= (1 if count is None else count) for part, count in parts)
    ]
    drawn = [[image for label in left for image in part[label]] for part, _ in parts]
    return left, *drawn, one.notes, sum(available[label] for label in left)


def _labels(images: list[Image]) -> list[str]:
    return sorted({image.label for image in images})


@st.composite
def some_images(draw: st.DrawFn) -> list[Image]:
    """Of two or three classes whose names lie in another order than the keys, sorted by key."""
    rng = random.Random(draw(st.integers(0, 10**6)))
    contents, people = draw(st.sampled_from([30, 300, 10**9])), draw(st.sampled_from([0, 9, 60]))
    splits = draw(st.sampled_from([("train", "test"), ("train", "val"), ("train", "val", "test")]))
    by_class = draw(st.booleans())
    images = []
    for number in range(draw(st.integers(20, 90))):
        label = rng.choice("zaé")
        key = f"{label if by_class else rng.choice('xyz')}/é{rng.randrange(10**6)}-{number}.png"
        split: Any = rng.choice((*splits, "train", "train"))
        sha256 = hashlib.sha256(str(rng.randrange(contents)).encode()).hexdigest()
        group = f"{rng.randrange(people)}" if people and rng.random() < 0.8 else None
        images.append(Image(key, label, split, sha256, group))
    return sorted(images, key=lambda image: image.key)


def in_table(images: list[Image], folder: Path) -> Table:
    """The images as a table that was written and opened."""
    rows = [Row(i.key, i.label, i.split, i.group, i.sha256, Span(f"/{i.key}")) for i in images]
    places = {"folder": folder, "cache_dir": folder}
    write(folder / "a.table", rows, {}, name="a", version="1", layout="", **places)
    found = Table.open(folder / "a.table", folder, folder)
    assert found is not None
    return found


@settings(max_examples=150, deadline=None)
@given(
    images=some_images(),
    k=st.none() | st.integers(1, 6),
    v=st.integers(0, 3),
    t=st.none() | st.integers(1, 4),
    budget=st.booleans(),
    restricted=st.booleans(),
    draw=st.integers(0, 3),
)
def test_selections_over_columns_are_those_of_the_definition(
    images: list[Image],
    k: int | None,
    v: int,
    t: int | None,
    budget: bool,
    restricted: bool,
    draw: int,
) -> None:
    splits = {image.split for image in images}
    from_val = "val" in splits and "test" not in splits and v == 3
    source = "val" if from_val else "given" if "test" in splits and t != 1 else "pool"
    options: dict[str, Any] = {
        "test_from": source,
        "test_per_class": t or 2,
        "on_short": "drop_class",
    }
    options |= {"val_from": "budget"} if budget else {"val_per_class": v}
    options |= {"images_per_class": max(2, k or 5) if budget else k}
    data = DataSpec(dataset="d", **options)
    where: Where = (lambda i: int(i.sha256, 16) % 3 > 0) if restricted else (lambda _: True)
    expected = literal_splits(images, data, draw, where)
    with tempfile.TemporaryDirectory() as folder:
        table = in_table(images, Path(folder))
        ways: list[list[Any]] = [[table.images_of(label) for label in table.labels]]
        ways.append([tuple(i for i in images if i.label == label) for label in _labels(images)])
        for way in ways:
            pools = [Pool(label, of) for label, of in zip(_labels(images), way, strict=True)]
            given_where = where if restricted else None
            if not expected[0]:
                with pytest.raises(DataError, match="drop_class would drop all"):
                    split_pools(pools, data, draw, given_where)
                continue
            found = split_pools(pools, data, draw, given_where)
            names, *parts, notes, available = expected
            assert found.classes == tuple(names)
            assert [list(found.train), list(found.val), list(found.test)] == parts
            assert {k: n for k, n in found.notes.items() if k != "dropped_classes"} == notes
            assert found.available_images == available


@settings(max_examples=50, deadline=None)
@given(images=some_images(), seed=st.integers(0, 10**6))
def test_images_are_a_tuple_of_images(images: list[Image], seed: int) -> None:
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        table = in_table(images, Path(folder))
        every = Images.of(*map(table.images_of, table.labels))
        literal = tuple(i for label in table.labels for i in images if i.label == label)
        assert every == literal
        assert hash(every) == hash(literal)
        assert every[-1] == literal[-1]
        assert every[3:17:2] == literal[3:17:2]
        with pytest.raises(IndexError):
            every[len(literal)]
        picked = [rng.randrange(len(literal)) for _ in range(30)]
        some = every[np.array(picked)]
        chosen = tuple(literal[place] for place in picked)
        assert some == chosen
        assert some != literal
        assert (some + every).columns is every.columns
        assert some + every == chosen + every == chosen + literal
        assert some.keys == [image.key for image in chosen]
        assert some.groups == [image.group for image in chosen]
        assert some.sha256.tobytes().hex() == "".join(image.sha256 for image in chosen)
        assert some.labels_in(["é", "z"]).tolist() == [
            ["é", "z"].index(image.label) if image.label != "a" else -1 for image in chosen
        ]
        contents = {image.sha256 for image in literal[:9] + literal[20:22]}
        assert every.shared_with(every[:9], Images.of(literal[20:22])).tolist() == [
            image.sha256 in contents for image in literal
        ]


def test_images_that_begin_alike_are_not_taken_for_equal() -> None:
    one, other = (Image(key, "a", "train", "ab" * 31 + key) for key in ("00", "01"))
    assert Images.of([one]).shared_with(Images.of([other])).tolist() == [False]
    assert Images.of([one]).shared_with(Images.of([other, one])).tolist() == [True]
    data = DataSpec(dataset="d", val_per_class=0, test_per_class=1, test_from="pool")
    assert split_pools([Pool("a", (one, other))], data, 0).notes == {}


@settings(max_examples=20, deadline=None)
@given(images=some_images())
def test_a_fingerprint_is_of_lines_of_the_images(images: list[Image]) -> None:
    dataset: Any = DATASETS["digits"]()  # type: ignore[operator]
    lines = [dataset.name, dataset.version, '["b", "a"]', f"train {len(images)}"]
    lines += [f"{i.sha256} {i.label}\0{i.key}" for i in images]
    lines += ["val 0", "test 1", f"{images[0].sha256} {images[0].label}\0{images[0].key}"]
    expected = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert fingerprint(dataset, ("b", "a"), images, (), images[:1]) == expected
