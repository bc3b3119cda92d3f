"""The taxonomy against the published counts, an independent table, and nltk's own reader."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from bench.data import wordnet_files
from bench.data.wordnet import Rule, Taxonomy, taxonomy
from bench.data.wordnet_files import NounFiles, Synset, files_in, installed_files
from bench.errors import DataError

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("BENCH_TEST_SHARED", ROOT.parent / "shared"))
DEBIAN = Path("/usr/share/wordnet")

needs_debian = pytest.mark.skipif(
    not (DEBIAN / "data.noun").is_file(), reason="Debian's package wordnet-base is not installed"
)


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
from bench.data.wordnet import taxonomy
t = taxonomy()
rules = ("first_pointer", "longest_path", "closure")
print([len(t.under(s, r)) for s in ("dog.n.01", "instrumentality.n.03") for r in rules])
print([len(side) for reading in ("natural", "artifact_or_food") for side in t.branches(reading)])
print(len(t.under("living_thing.n.01", "closure")), len(t.under("artifact.n.01", "closure")))
print(len(set(t.man_made()) - set(t.under("instrumentality.n.03"))))
text = repr([(t.first_pointer_path(c), t.longest_path(c), t.all_paths(c)) for c in t.classes])
text += repr([t.under(s, r) for s in t.synsets for r in rules[:1]])
text += repr([t.lowest_common_ancestor(a, b) for a, b in zip(t.classes[:99], t.classes[500:])])
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
        "import sys; from bench.data.wordnet import taxonomy; taxonomy().natural();"
        "from bench.data import selection;"
        "print({'torch', 'timm', 'pandas', 'nltk', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


def test_natural_and_man_made_divide_the_classes() -> None:
    natural, man_made = taxonomy().natural(), taxonomy().man_made()
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
        assert taxonomy().index(row["wnid"]) == int(row["index"])
        assert taxonomy().synset(row["wnid"]).lemmas[0] == row["first_lemma"]


def test_branches_agree_with_the_independent_table() -> None:
    t = taxonomy()
    ours = {
        "natural_451": t.natural(),
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


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """nltk's reader over Debian's WordNet 3.0, which lacks only the list of file names."""
    if not (DEBIAN / "data.noun").is_file():
        pytest.skip("Debian's package wordnet-base is not installed")
    wordnet = pytest.importorskip("nltk.corpus.reader.wordnet")
    import nltk.data

    folder = tmp_path_factory.mktemp("wordnet")
    for file in DEBIAN.iterdir():
        if file.is_file():
            shutil.copyfile(file, folder / file.name)
    (folder / "lexnames").write_text("".join(f"{n:02d}\tfile{n}\t0\n" for n in range(45)))

    class Reader(wordnet.WordNetCorpusReader):  # type: ignore[misc, name-defined]
        def map_wn(self, version: str = "wordnet") -> None:
            """Other WordNets are not wanted, and their files are not there."""

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nltk.data, "path", [str(folder)])  # nltk reads nowhere else
        with pytest.warns(UserWarning, match="multilingual"):
            loaded = Reader(str(folder), None)
        yield loaded


def theirs(reader: Any, wnid: str) -> Any:
    return reader.synset_from_pos_and_offset("n", int(wnid[1:]))


def ours(synset: Any) -> str:
    return f"n{synset.offset():08d}"


def test_every_synset_agrees_with_nltk(reader: Any) -> None:
    for wnid, synset in taxonomy().synsets.items():
        other = theirs(reader, wnid)
        assert synset.name == other.name()
        assert list(synset.lemmas) == other.lemma_names()
        above = other.hypernyms() + other.instance_hypernyms()
        assert sorted(synset.hypernyms) == sorted(map(ours, above))


def test_paths_and_distances_agree_with_nltk(reader: Any) -> None:
    t = taxonomy()
    for a, b in zip(t.classes[::23], t.classes[7::19], strict=False):
        other_a, other_b = theirs(reader, a), theirs(reader, b)
        expected = {tuple(map(ours, path)) for path in other_a.hypernym_paths()}
        assert set(t.all_paths(a)) == expected
        assert t.first_pointer_path(a) in expected
        assert len(t.longest_path(a)) == max(map(len, expected)) == other_a.max_depth() + 1
        assert t.path_distance(a, b) == other_a.shortest_path_distance(other_b)
        assert t.lowest_common_ancestor(a, b) in map(ours, other_a.lowest_common_hypernyms(other_b))


def test_closure_agrees_with_nltk(reader: Any) -> None:
    for name in ("dog.n.01", "instrumentality.n.03", "food.n.02", "living_thing.n.01"):
        below = {ours(s) for s in reader.synset(name).closure(lambda s: s.hyponyms())}
        expected = [w for w in taxonomy().classes if w in below]
        assert list(taxonomy().under(name, "closure")) == expected


@needs_debian
def test_the_shipped_tables_are_what_the_script_makes(tmp_path: Path) -> None:
    script = ROOT / "scripts" / "build_ilsvrc2012.py"
    command = [sys.executable, str(script), "--wordnet", str(DEBIAN), "--out", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    for name in ("ilsvrc2012.csv", "synsets.csv"):
        assert (tmp_path / name).read_bytes() == (ROOT / "bench" / "data" / name).read_bytes()


@needs_debian
def test_names_of_the_files_agree_with_nltk(reader: Any) -> None:
    files = files_in(DEBIAN)
    for name in ("teddy.n.01", "domestic_dog.n.01", "dog.n.07", "Einstein.n.01", "crane.n.05"):
        found, other = files.by_name(name), reader.synset(name)
        assert found is not None
        assert (found.wnid, found.name) == (ours(other), other.name())
        above = other.hypernyms() + other.instance_hypernyms()
        assert sorted(found.hypernyms) == sorted(map(ours, above))
    assert files.by_name("dog.n.08") is None
    assert list(files.senses("dog")) == [s.name() for s in reader.synsets("dog", "n")]


# --- the table's own consistency ------------------------------------------------------------------


def test_the_table_is_closed_and_has_one_root() -> None:
    t = taxonomy()
    above = {hypernym for synset in t.synsets.values() for hypernym in synset.hypernyms}
    assert above <= set(t.synsets)
    assert [s.name for s in t.synsets.values() if not s.hypernyms] == ["entity.n.01"]
    assert above | set(t.classes) == set(t.synsets)
    assert len({s.name for s in t.synsets.values()}) == len(t.synsets)


def test_wordnets_licence_is_in_the_table() -> None:
    text = (ROOT / "bench" / "data" / "synsets.csv").read_text(encoding="utf-8")
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
    assert small.path_distance("d", "e") == small.path_distance("e", "d") == 2
    assert small.path_distance("d", "d") == 0
    assert small.path_distance("d", "x") == 1
    assert small.lowest_common_ancestor("d", "e") == "b"
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
    with pytest.raises(DataError, match="nearest: n02088364"):
        without_nltk_data.index("n02088365")
    with pytest.raises(DataError, match=r"there is no rule 'closed'(?s:.)*closure"):
        without_nltk_data.under("dog.n.01", "closed")  # type: ignore[arg-type]


def noun_files(version: str = "3.0") -> tuple[bytes, bytes]:
    """Three nouns in WordNet's format; the second is an instance of the first and the third."""
    head = f"  1 WordNet {version} Copyright 2006 by Princeton University.  \n"
    offsets = [len(head), len(head) + 64, len(head) + 164]
    lines = [
        f"{offsets[0]:08d} 03 n 01 entity 0 000 | all there is",
        f"{offsets[1]:08d} 03 n 02 Rex 0 best_dog 0 003 @ {offsets[2]:08d} n 0000 "
        f"~ {offsets[0]:08d} n 0000 @i {offsets[0]:08d} n 0000 | one",
        f"{offsets[2]:08d} 03 n 01 rex 1 001 @ {offsets[0]:08d} n 0000 | another; a | b",
    ]
    # Every line is padded to its place; WordNet ends lines with two spaces.
    ends = [offsets[1], offsets[2], offsets[2] + 90]
    for n, (start, end) in enumerate(zip(offsets, ends, strict=True)):
        lines[n] = lines[n].ljust(end - start - 1) + "\n"
    index = "  1 licence  \n"
    index += f"best_dog n 1 1 @ 1 0 {offsets[1]:08d}  \n"
    index += f"entity n 1 0 1 1 {offsets[0]:08d}  \n"
    index += f"rex n 2 2 @ ~ 2 1 {offsets[2]:08d} {offsets[1]:08d}  \n"
    return (head + "".join(lines)).encode(), index.encode()


def test_noun_files_are_read_as_written() -> None:
    files = NounFiles(*noun_files(), place="here")
    rex = files.by_name("best_dog.n.01")
    assert rex is not None
    assert rex.name == "rex.n.02"
    assert rex.lemmas == ("Rex", "best_dog")
    other = files.by_name("rex.n.1")
    entity = files.by_name("entity.n.01")
    assert other is not None
    assert entity is not None
    assert rex.hypernyms == (other.wnid, entity.wnid)
    assert files.senses("rex") == ("rex.n.01", "rex.n.02")
    for nothing in ("rex.n.03", "rex.n.00", "rex.v.01", "rex", "cat.n.01"):
        assert files.by_name(nothing) is None
    assert files.by_wnid(f"n{int(rex.wnid[1:]) + 1:08d}") is None
    assert files.by_wnid("n99999999") is None
    assert files.by_wnid("dog") is None


def test_wordnet_of_another_version_is_refused(tmp_path: Path) -> None:
    data, index = noun_files("3.1")
    (tmp_path / "data.noun").write_bytes(data)
    with pytest.raises(DataError, match=r"no index\.noun"):
        files_in(tmp_path)
    (tmp_path / "index.noun").write_bytes(index)
    with pytest.raises(DataError, match=r"not of version 3\.0"):
        files_in(tmp_path)


@pytest.mark.parametrize("zipped", [False, True])
def test_a_synset_outside_the_table_comes_from_nltks_data(
    zipped: bool, tmp_path: Path, without_nltk_data: Taxonomy, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nltk.data

    contents = dict(zip(("data.noun", "index.noun"), noun_files(), strict=True))
    corpora = tmp_path / "corpora"
    (corpora / "wordnet").mkdir(parents=True)
    if zipped:
        (corpora / "wordnet").rmdir()
        with zipfile.ZipFile(corpora / "wordnet.zip", "w") as archive:
            archive.writestr("wordnet/", "")
            for name, text in contents.items():
                archive.writestr(f"wordnet/{name}", text)
    else:
        for name, text in contents.items():
            (corpora / "wordnet" / name).write_bytes(text)
    assert installed_files() is None
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    assert without_nltk_data.synset("rex.n.02").lemmas == ("Rex", "best_dog")
    with pytest.raises(DataError, match=r"nor in nltk's WordNet 3\.0\n  nearest: rex\.n\.01"):
        without_nltk_data.synset("rex")


def test_torn_nltk_data_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = pytest.importorskip("nltk.data")
    (tmp_path / "corpora" / "wordnet").mkdir(parents=True)
    monkeypatch.setattr(data, "path", [str(tmp_path)])
    with pytest.raises(DataError, match="nltk's WordNet cannot be read"):
        installed_files()


def test_no_nltk_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nltk", None)
    monkeypatch.setitem(sys.modules, "nltk.data", None)
    assert wordnet_files.installed_files() is None
