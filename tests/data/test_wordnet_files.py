"""WordNet's files read as written, nltk's data found, and the taxonomy against nltk's reader."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.core.errors import DataError
from bench.data.wordnet.files import NounFiles, files_in, installed_files
from bench.data.wordnet.hierarchy import Taxonomy, taxonomy

ROOT = Path(__file__).resolve().parents[2]
DEBIAN = Path("/usr/share/wordnet")

needs_debian = pytest.mark.skipif(
    not (DEBIAN / "data.noun").is_file(), reason="Debian's package wordnet-base is not installed"
)


@pytest.fixture
def without_nltk_data(monkeypatch: pytest.MonkeyPatch) -> Taxonomy:
    data = pytest.importorskip("nltk.data")
    monkeypatch.setattr(data, "path", [])
    return Taxonomy(taxonomy().classes, taxonomy().synsets)


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
    assert installed_files() is None


# --- agreement with nltk --------


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
        up_a, up_b = t.distances_up(a), t.distances_up(b)
        steps = min(up_a[wnid] + up_b[wnid] for wnid in up_a.keys() & up_b.keys())
        assert steps == other_a.shortest_path_distance(other_b)


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
        assert (tmp_path / name).read_bytes() == (
            ROOT / "bench" / "data" / "wordnet" / name
        ).read_bytes()


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
