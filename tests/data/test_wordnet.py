"""The taxonomy against the published counts, an independent table, and nltk's own reader."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from bench.core.errors import DataError
from bench.data.wordnet.files import Synset
from bench.data.wordnet.hierarchy import Rule, Taxonomy, taxonomy

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("BENCH_TEST_SHARED", ROOT.parent / "shared"))


def names(wnids: tuple[str, ...]) -> list[str]:
    return [taxonomy().synset(wnid).name for wnid in wnids]


def named(*labels: str) -> set[str]:
    """The wnids of classes by their labels."""
    known = {taxonomy().name(wnid): wnid for wnid in taxonomy().classes}
    return {known[label] for label in labels}


# --- the counts --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("synset", "rule", "count"),
    [
        ("dog.n.01", "first_pointer", 118),
        ("dog.n.01", "closure", 118),
        ("instrumentality.n.03", "first_pointer", 347),
        ("instrumentality.n.03", "longest_path", 347),
        ("instrumentality.n.03", "closure", 358),
        ("living_thing.n.01", "closure", 410),
        ("artifact.n.01", "closure", 522),
        ("cloth_covering.n.01", "closure", 2),
        ("entity.n.01", "first_pointer", 1000),
    ],
)
def test_published_counts(synset: str, rule: Rule, count: int) -> None:
    assert len(taxonomy().under(synset, rule)) == count


COUNTS_AND_ORDER = """
import hashlib
from bench.data.wordnet.hierarchy import taxonomy
t = taxonomy()
rules = ("first_pointer", "longest_path", "closure")
print([len(t.under(s, r)) for s in ("dog.n.01", "instrumentality.n.03") for r in rules])
print([len(side) for reading in ("natural", "artifact_or_food") for side in t.branches(reading)])
print(len(t.under("living_thing.n.01", "closure")), len(t.under("artifact.n.01", "closure")))
print(len(set(t.branches()[1]) - set(t.under("instrumentality.n.03"))))
text = repr([(t.first_pointer_path(c), t.longest_path(c), t.all_paths(c)) for c in t.classes])
text += repr([t.under(s, r) for s in t.synsets for r in rules[:1]])
text += repr(t.tree_lines("instrumentality.n.03", "closure"))
print(hashlib.sha256(text.encode()).hexdigest())
"""


def test_nothing_depends_on_the_hash_seed() -> None:
    outputs = {
        subprocess.run(
            [sys.executable, "-c", COUNTS_AND_ORDER],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(outputs) == 1
    lines = outputs.pop().splitlines()
    assert lines[:4] == ["[118, 118, 118, 347, 347, 358]", "[451, 549, 451, 549]", "410 522", "202"]


def test_reading_the_table_needs_no_heavy_package() -> None:
    code = (
        "import sys; from bench.data.wordnet.hierarchy import taxonomy; taxonomy().branches()[0];"
        "from bench.data import selection;"
        "print({'torch', 'timm', 'pandas', 'nltk', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


def test_natural_and_man_made_divide_the_classes() -> None:
    natural, man_made = taxonomy().branches()
    assert (len(natural), len(man_made)) == (451, 549)
    assert sorted(natural + man_made) == sorted(taxonomy().classes)
    closure = [taxonomy().under(s, "closure") for s in ("living_thing.n.01", "artifact.n.01")]
    neither = set(taxonomy().classes) - set(closure[0]) - set(closure[1])
    assert len(neither) == 68
    assert len(neither & set(natural)) == 41
    assert len(neither & set(man_made)) == 27
    assert named("hay", "bubble", "broccoli", "volcano") <= set(natural)
    assert named("pizza", "espresso", "street sign", "toilet tissue") <= set(man_made)


def test_alternative_reading_of_the_branches() -> None:
    living, artifact = taxonomy().branches("artifact_or_food")
    assert (len(living), len(artifact)) == (451, 549)
    assert named("broccoli") <= set(artifact)
    assert named("pizza", "espresso", "street sign", "volcano") <= set(living)


@pytest.mark.parametrize("reading", ["natural", "artifact_or_food"])
def test_instrumentality_lies_in_the_man_made_branch_and_leaves_202(reading: Any) -> None:
    branch = set(taxonomy().branches(reading)[1])
    instruments = set(taxonomy().under("instrumentality.n.03"))
    assert instruments < branch
    assert len(branch - instruments) == 202


def test_what_is_man_made_and_no_instrument() -> None:
    rest = sorted(set(taxonomy().branches()[1]) - set(taxonomy().under("instrumentality.n.03")))
    counts = {
        name: len(taxonomy().under(name, "first_pointer", rest))
        for name in ("covering.n.02", "structure.n.01", "commodity.n.01")
    }
    assert counts == {"covering.n.02": 90, "structure.n.01": 55, "commodity.n.01": 12}
    food = {w for n in ("food.n.01", "food.n.02") for w in taxonomy().under(n, classes=rest)}
    assert len(food) == 24


def test_classes_that_the_rules_disagree_on() -> None:
    first, closure, longest = (
        set(taxonomy().under("instrumentality.n.03", rule))
        for rule in ("first_pointer", "closure", "longest_path")
    )
    assert first - longest == named("hand blower")
    assert longest - first == named("puck")
    lost = "mixing bowl, Petri dish, soup bowl, wooden spoon, prayer rug, seat belt, "
    lost += "sewing machine, shower curtain, theater curtain, thimble, puck"
    assert closure - first == named(*lost.split(", "))


def test_chains_of_the_papers_second_figure() -> None:
    beagle = names(taxonomy().first_pointer_path("beagle.n.01"))
    assert beagle[0] == "entity.n.01"
    assert beagle[-4:] == ["dog.n.01", "hunting_dog.n.01", "hound.n.01", "beagle.n.01"]
    assert beagle.index("animal.n.01") < beagle.index("dog.n.01")
    banana = names(taxonomy().first_pointer_path("banana.n.02"))
    assert banana[0] == "entity.n.01"
    assert banana[-3:] == ["produce.n.01", "edible_fruit.n.01", "banana.n.02"]


# --- agreement with others --------------------------------------------------------------------


@cache
def branch_table() -> list[dict[str, str]]:
    path = SHARED / "reference" / "ilsvrc2012_branches.csv"
    if not path.is_file():
        pytest.skip(f"no independent table of the branches at {path}")
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_index_order_and_words_agree_with_the_independent_table() -> None:
    rows = branch_table()
    assert taxonomy().classes == tuple(row["wnid"] for row in rows)
    for row in rows:
        assert taxonomy().classes[int(row["index"])] == row["wnid"]
        assert taxonomy().synset(row["wnid"]).lemmas[0] == row["first_lemma"]


def test_branches_agree_with_the_independent_table() -> None:
    t = taxonomy()
    ours = {
        "natural_451": t.branches()[0],
        "artifact_or_food2_549": t.branches("artifact_or_food")[1],
        "dog_118": t.under("dog.n.01"),
        "instrumentality_first_pointer_347": t.under("instrumentality.n.03"),
        "instrumentality_longest_path_347": t.under("instrumentality.n.03", "longest_path"),
        "instrumentality_closure_358": t.under("instrumentality.n.03", "closure"),
        "living_thing_410": t.under("living_thing.n.01", "closure"),
        "artifact_522": t.under("artifact.n.01", "closure"),
    }
    for column, wnids in ours.items():
        theirs = tuple(row["wnid"] for row in branch_table() if row[column] == "1")
        assert wnids == theirs, column


# --- the table's own consistency ------------------------------------------------------------------


def test_the_table_is_closed_and_has_one_root() -> None:
    t = taxonomy()
    above = {hypernym for synset in t.synsets.values() for hypernym in synset.hypernyms}
    assert above <= set(t.synsets)
    assert [s.name for s in t.synsets.values() if not s.hypernyms] == ["entity.n.01"]
    assert above | set(t.classes) == set(t.synsets)
    assert len({s.name for s in t.synsets.values()}) == len(t.synsets)


def test_wordnets_licence_is_in_the_table() -> None:
    text = (ROOT / "bench" / "data" / "wordnet" / "synsets.csv").read_text(encoding="utf-8")
    assert "WordNet 3.0 Copyright 2006 by Princeton University" in text


def test_words_repeat_but_labels_do_not() -> None:
    t = taxonomy()
    words = [t.synset(wnid).lemmas[0] for wnid in t.classes]
    assert sorted({word for word in words if words.count(word) > 1}) == ["crane", "maillot"]
    assert len({t.name(wnid) for wnid in t.classes}) == 1000
    assert t.name("n02012849") == "crane (wading bird)"


def test_a_synset_is_found_by_name_and_by_wnid() -> None:
    t = taxonomy()
    assert t.synset("dog.n.01") is t.synset("n02084071")
    assert t.hypernyms("dog.n.01") == t.synset("n02084071").hypernyms
    assert t.under("n02084071") == t.under("dog.n.01")


def test_distances_on_a_small_taxonomy() -> None:
    """a - b - d
    \\ c /  \\ e      where d's first pointer is b, its longest path by way of c and x"""

    def make(wnid: str, *above: str) -> Synset:
        return Synset(wnid, f"{wnid}.n.01", (wnid,), above)

    synsets = [make("a"), make("b", "a"), make("c", "a"), make("x", "c"), make("d", "b", "x")]
    synsets.append(make("e", "b"))
    small = Taxonomy(("d", "e"), {s.wnid: s for s in synsets})
    assert small.first_pointer_path("d") == ("a", "b", "d")
    assert small.longest_path("d") == ("a", "c", "x", "d")
    assert small.all_paths("d") == (("a", "b", "d"), ("a", "c", "x", "d"))
    assert small.distances_up("d") == {"d": 0, "b": 1, "x": 1, "a": 2, "c": 2}
    assert small.under("x", "first_pointer") == ()
    assert small.under("x", "closure") == small.under("x", "longest_path") == ("d",)
    assert small.tree_lines("a", "closure") == [
        "a.n.01  2",
        "  b.n.01  2",
        "    d.n.01  d",
        "    e.n.01  e",
        "  c.n.01  1",
        "    x.n.01  1",
        "      d.n.01  d",
    ]


def test_the_tree_counts_every_class_once() -> None:
    lines = taxonomy().tree_lines("dog.n.01")
    assert lines[0] == "dog.n.01  118"
    shown = {line.split()[-1] for line in lines} & set(taxonomy().classes)
    assert shown == set(taxonomy().under("dog.n.01"))
    assert taxonomy().tree_lines("dog.n.01", depth=0) == ["dog.n.01  118"]
    two = ("n02088364", "n02088238")
    assert taxonomy().tree_lines("hound.n.01", classes=two) == [
        "hound.n.01  2",
        "  basset.n.01  n02088238",
        "  beagle.n.01  n02088364",
    ]


# --- synsets outside the table, and errors -------------------------------------------------------


@pytest.fixture
def without_nltk_data(monkeypatch: pytest.MonkeyPatch) -> Taxonomy:
    data = pytest.importorskip("nltk.data")
    monkeypatch.setattr(data, "path", [])
    return Taxonomy(taxonomy().classes, taxonomy().synsets)


def test_an_unknown_synset_says_what_is_near_and_what_to_do(without_nltk_data: Taxonomy) -> None:
    with pytest.raises(DataError, match=r"'dogg\.n\.01'(?s:.)*nearest: dog\.n\.01.*nltk"):
        without_nltk_data.synset("dogg.n.01")
    with pytest.raises(DataError, match=r"there is no rule 'closed'(?s:.)*closure"):
        without_nltk_data.under("dog.n.01", "closed")  # type: ignore[arg-type]
