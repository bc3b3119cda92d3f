"""Selections: what every recipe promises, categories and halves, errors."""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from bench.commands.app import app
from bench.core.errors import BenchError, DataError
from bench.data.selection.classes import Selection, select
from bench.data.wordnet.hierarchy import taxonomy
from bench.specs.data import (
    AllClasses,
    ClassRecipe,
    HalfClasses,
    LargeClasses,
    ListedClasses,
    NearFarClasses,
    RandomClasses,
    SourceCategories,
    UnderSynset,
)

ROOT = Path(__file__).resolve().parents[2]
CLASSES = taxonomy().classes
NATURAL = set(taxonomy().branches()[0])
DOGS = set(taxonomy().under("dog.n.01"))
DIGITS = tuple("0123456789")

quick = settings(max_examples=60, deadline=None)


def imagenet(recipe: ClassRecipe, classes: tuple[str, ...] = CLASSES) -> Selection:
    return select(recipe, classes, wnid_keyed=True, dataset="imagenet")


def digits(recipe: ClassRecipe) -> Selection:
    return select(recipe, DIGITS, wnid_keyed=False, dataset="digits")


# --- what holds for every recipe ---------------------------------------------------------------

RECIPES: list[ClassRecipe] = [
    RandomClasses(n=100),
    UnderSynset(synset="dog.n.01", n=50),
    UnderSynset(synset="dog.n.01"),
    SourceCategories(side="target"),
    SourceCategories(side="source", n=500),
    HalfClasses(side="a"),
    NearFarClasses(root="dog.n.01", side="near"),
    NearFarClasses(root="dog.n.01", side="far"),
]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: f"{r.recipe}")
def test_draws_ignore_the_order_of_the_classes_and_differ_by_number(recipe: ClassRecipe) -> None:
    first = imagenet(recipe)
    assert imagenet(recipe, CLASSES[::-1]) == first
    other = imagenet(recipe.model_copy(update={"class_draw": 1}))
    assert other.names != first.names
    assert len(set(other.names)) == len(other.names)


@pytest.mark.parametrize("recipe", [AllClasses(), *RECIPES], ids=lambda r: f"{r.recipe}")
def test_take_is_nested(recipe: ClassRecipe) -> None:
    """LI §4.4: targets of 100, 80, 40, 20 and 10 classes, each inside the one before."""
    whole = imagenet(recipe).names
    for n in (40, 20, 10):
        taken = imagenet(recipe.model_copy(update={"take": n}))
        assert taken.names == whole[:n]
        assert dict(taken.notes)["taken_from"] == len(whole)


DRAWS = """
import hashlib
from bench.data.selection.classes import select
from bench.data.wordnet.hierarchy import taxonomy
from bench.specs.data import HalfClasses, NearFarClasses, RandomClasses
from bench.specs.data import SourceCategories, UnderSynset
recipes = [RandomClasses(n=100), UnderSynset(synset="dog.n.01", n=50), HalfClasses(side="a")]
recipes += [SourceCategories(side="source", n=500)]
recipes += [NearFarClasses(root=r, side=s) for r in ("dog.n.01", "instrumentality.n.03")
            for s in ("target", "near", "far")]
chosen = [select(r, taxonomy().classes, wnid_keyed=True, dataset="imagenet") for r in recipes]
print(hashlib.sha256(repr(chosen).encode()).hexdigest())
"""


def test_draws_do_not_depend_on_the_hash_seed() -> None:
    outputs = {
        subprocess.run(
            [sys.executable, "-c", DRAWS],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(outputs) == 1


def test_a_draw_is_the_order_of_hashes() -> None:
    """Written out here: if it changes, every record's class lists change."""

    def rank(name: str) -> str:
        return hashlib.sha256(f"classes|random|7|{name}".encode()).hexdigest()

    drawn = digits(RandomClasses(n=10, class_draw=7))
    assert drawn.names == tuple(sorted(DIGITS, key=rank))


def test_every_class_is_drawn_equally_often() -> None:
    """600 draws of 3 of 10: the counts are 180 each but for chance; chi-square at 9 degrees."""
    counts = Counter(
        name for draw in range(600) for name in digits(RandomClasses(n=3, class_draw=draw)).names
    )
    expected = 600 * 3 / 10
    # Without replacement the statistic is (1 - 3/10) * 10/9 times a chi-square one.
    statistic = sum((counts[name] - expected) ** 2 / expected for name in DIGITS)
    assert statistic / (0.7 * 10 / 9) < 27.9  # its 0.999 quantile


# --- LI §4.2 and the halves --------------------------------------------------------------------


@pytest.mark.parametrize("draw", range(5))
def test_number_of_source_categories(draw: int) -> None:
    target = imagenet(SourceCategories(side="target", class_draw=draw)).names
    sources = [
        imagenet(SourceCategories(side="source", n=n, class_draw=draw)).names
        for n in (900, 800, 500, 200, 100, 80)
    ]
    assert len(target) == 100
    assert set(sources[0]) == set(CLASSES) - set(target)
    for larger, smaller in itertools.pairwise(sources):
        assert larger[: len(smaller)] == smaller
        assert set(smaller).isdisjoint(target)
    with pytest.raises(DataError, match="outside the target of 100: 901 asked for, there are 900"):
        imagenet(SourceCategories(side="source", n=901, class_draw=draw))


def test_the_full_source_contains_the_target() -> None:
    target = imagenet(SourceCategories(side="target")).names
    assert set(target) < set(imagenet(AllClasses()).names)


@pytest.mark.parametrize("draw", [0, 1])
def test_random_halves(draw: int) -> None:
    a = imagenet(HalfClasses(side="a", class_draw=draw)).names
    b = imagenet(HalfClasses(side="b", class_draw=draw)).names
    assert (len(a), len(b)) == (500, 500)
    assert sorted(a + b) == sorted(CLASSES)
    # A random half, unlike the one of Yosinski et al. by kind, has about as much of each branch.
    assert 190 < len(NATURAL & set(a)) < 260


@quick
@given(
    st.sets(st.text(min_size=1, max_size=5), min_size=2, max_size=30),
    st.integers(0, 9),
    st.data(),
)
def test_any_data_set(names: set[str], draw: int, data: st.DataObject) -> None:
    classes = tuple(names)

    def chosen(recipe: ClassRecipe) -> tuple[str, ...]:
        return select(recipe, classes, wnid_keyed=False, dataset="x").names

    assert chosen(AllClasses()) == tuple(sorted(classes))
    a, b = (chosen(HalfClasses.model_validate({"side": side, "class_draw": draw})) for side in "ab")
    assert sorted(a + b) == sorted(classes)
    assert len(b) - len(a) in (0, 1)
    n = data.draw(st.integers(1, len(classes)))
    assert (
        chosen(RandomClasses(n=n, class_draw=draw))
        == (chosen(RandomClasses(n=len(classes), class_draw=draw))[:n])
    )
    target_n = data.draw(st.integers(1, len(classes) - 1))
    source_n = data.draw(st.integers(1, len(classes) - target_n))
    options = {"target_n": target_n, "class_draw": draw}
    target = chosen(SourceCategories.model_validate({"side": "target", **options}))
    source = chosen(SourceCategories.model_validate({"side": "source", "n": source_n, **options}))
    assert (len(target), len(source)) == (target_n, source_n)
    assert set(source).isdisjoint(target)
    listed = tuple(data.draw(st.permutations(classes)))
    assert chosen(ListedClasses(names=listed)) == listed


# --- errors and text ---------------------------------------------------------------------------


def test_under_a_synset() -> None:
    assert set(imagenet(UnderSynset(synset="n02084071")).names) == DOGS
    assert imagenet(UnderSynset(synset="n02084071", n=5)) == imagenet(
        UnderSynset(synset="dog.n.01", n=5)
    )
    closure = imagenet(UnderSynset(synset="instrumentality.n.03", rule="closure"))
    assert len(closure.names) == 358


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (
            UnderSynset(synset="poodle.n.01", n=4),
            r"has 3 classes.*\n.*n: at most 3.*dog\.n\.01 has",
        ),
        (RandomClasses(n=1001), "1001 asked for, there are 1000"),
        (RandomClasses(n=5, take=6), "take: .*6 asked for, there are 5"),
        (NearFarClasses(root="dog.n.01", side="target", target_n=119), "at most 118"),
        (NearFarClasses(root="dog.n.01", side="far", source_n=883), "source_n: at most 882"),
        (NearFarClasses(root="entity.n.01", side="far"), "narrower root"),
        (ListedClasses(names=("n02088365",)), "one digit away: n02088364 .*beagle"),
        (ListedClasses(names=("beagle.n.01",)), "write n02088364"),
        (ListedClasses(names=("n02088364", "n02088364")), "more than once: n02088364"),
    ],
)
def test_what_cannot_be_had_says_what_can(recipe: ClassRecipe, message: str) -> None:
    with pytest.raises(DataError, match=message):
        imagenet(recipe)


def test_no_class_under_the_root() -> None:
    with pytest.raises(DataError, match=r"has 0 classes under dog(?s:.)*wider synset: carnivore"):
        imagenet(UnderSynset(synset="dog.n.01"), ("n02123045", "n02127052"))


@pytest.mark.parametrize(
    "recipe", [UnderSynset(synset="dog.n.01"), NearFarClasses(root="dog.n.01", side="far")]
)
def test_wordnet_recipes_need_wnids(recipe: ClassRecipe) -> None:
    with pytest.raises(DataError, match=r"'digits' are not keyed by wnid(?s:.)*random, categories"):
        digits(recipe)


def test_unsuitable_data_sets() -> None:
    with pytest.raises(DataError, match="lists a class twice"):
        select(AllClasses(), ("a", "a"), wnid_keyed=False, dataset="x")
    with pytest.raises(DataError, match="no two halves"):
        select(HalfClasses(side="a"), ("a",), wnid_keyed=False, dataset="x")
    with pytest.raises(DataError, match="has no class cat"):
        select(ListedClasses(names=("cat",)), ("car",), wnid_keyed=False, dataset="x")


@pytest.mark.parametrize(
    ("asked", "way_out"),
    [
        ("tench", "write n01440764"),
        ("Tench", "write n01440764"),
        ("tench.n.01", "write n01440764"),
        ("goldfsh", r"n01443537 \(goldfish\)"),
        ("dog.n.01", r"above 118 classes: \{recipe: under, synset: dog.n.01\}"),
        ("n02084071", r"n02084071 \(dog.n.01\) is above 118"),
        ("n02084079", "n02084079 is unknown"),
        ("qqqqqq", "nothing is spelled like"),
    ],
)
def test_a_class_that_is_not_there_is_explained(asked: str, way_out: str) -> None:
    with pytest.raises(DataError, match=rf"no class {asked}\n.*{way_out}.*bench classes"):
        imagenet(ListedClasses(names=(asked, CLASSES[0])))


@pytest.mark.parametrize(
    ("asked", "way_out"),
    [
        ("n02084079", "bench classes lists wnids"),
        ("dogg.n.01", "nearest: dog.n.01"),
        ("dog", "nearest: .*dog.n.01"),
        ("qqqqqq", "--tree"),
    ],
)
def test_a_synset_that_is_not_there_is_explained(asked: str, way_out: str) -> None:
    with pytest.raises(DataError, match=rf"no synset '{asked}'.*\n.*{way_out}") as caught:
        imagenet(UnderSynset(synset=asked))
    assert "more)" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says", "way_out"),
    [
        ("rnd", "no recipe 'rnd'", "recipes: random"),
        ("{recipe: random}", "n is missing", "{recipe: random, n: 10}"),
        ("[1]", "expected a recipe", "near_far"),
        ("5", "expected a recipe", "near_far"),
        ("{recipe: half, side: c}", "'c': must be 'a' or 'b'", "side: a"),
    ],
)
def test_recipes_on_the_command_line_are_explained(
    tmp_path: Path, text: str, says: str, way_out: str
) -> None:
    with pytest.raises(BenchError) as caught:
        CliRunner().invoke(
            app,
            ["classes", text, "--dataset", "digits", "--results", str(tmp_path)],
            catch_exceptions=False,
        )
    assert says in caught.value.message
    assert way_out in str(caught.value.hint)


def test_classes_with_enough_images() -> None:
    sizes = {"a": 9, "b": 10, "c": 300}

    def chosen(images: int) -> Selection:
        recipe = LargeClasses(images=images)
        kind = {"wnid_keyed": False, "dataset": "corals"}
        return select(recipe, ("c", "a", "b"), images_of=sizes.__getitem__, **kind)  # type: ignore[arg-type]

    assert chosen(10) == Selection(("b", "c"), (("chosen_from", 3),))
    with pytest.raises(DataError, match="no class of 'corals' has 301 images; the most is 300"):
        chosen(301)
