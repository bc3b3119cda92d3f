"""Data sets: where they lie, what is read, refused and remembered; a run's images end to end."""

import csv
import hashlib
import io
import os
import shutil
import subprocess
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from bench.core.errors import DataError
from bench.data import catalog
from bench.data.catalog import load, open_dataset, resolve
from bench.data.datasets import DATASETS
from bench.data.files.decode import UnreadableError, decode
from bench.data.formats.registry import FORMATS
from bench.data.opened import open_format
from bench.data.places import MissingDataError, resolve_root
from bench.specs.data import AllClasses, DataSpec, ListedClasses, RandomClasses

DOG, CAT = "n02084071", "n02121620"


@pytest.fixture(autouse=True)
def _no_bench_data(monkeypatch):
    monkeypatch.delenv("BENCH_DATA", raising=False)


def picture(text, kind="PNG"):
    """Bytes of a small image that differs for every text."""
    seed = hashlib.sha256(text.encode()).digest()
    file = io.BytesIO()
    Pillow.fromarray(np.frombuffer(seed * 6, np.uint8).reshape(8, 8, 3)).save(file, kind)
    return file.getvalue()


def write_files(root, names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(name))


def make_folder(root, classes=("cat", "dog"), n=8, splits=("",)):
    prefixes = [f"{split}/" if split else "" for split in splits]
    write_files(root, [f"{p}{c}/{i}.png" for p in prefixes for c in classes for i in range(n)])
    return root


def make_tiny(root, n=6, n_val=3):
    for wnid in (DOG, CAT):
        write_files(root, [f"train/{wnid}/images/{wnid}_{i}.JPEG" for i in range(n)])
        (root / f"train/{wnid}/{wnid}_boxes.txt").write_text("boxes")
    names = [f"val_{i}.JPEG" for i in range(2 * n_val)]
    write_files(root, [f"val/images/{name}" for name in names])
    lines = [f"{name}\t{(DOG, CAT)[i % 2]}\t0\t0\t9\t9\n" for i, name in enumerate(names)]
    (root / "val/val_annotations.txt").write_text("".join(lines))
    write_files(root, ["test/images/test_0.JPEG"])
    return root


def make_tar(path, root, top="tiny-imagenet-200", mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        archive.add(root, arcname=top)
    return path


def spec(dataset, root=None, **changes):
    usual = {"image_size": 8, "images_per_class": 2, "val_per_class": 1}
    return DataSpec(dataset=dataset, root=None if root is None else str(root), **usual | changes)


class Bench:
    """resolve and load with one cache folder."""

    def __init__(self, cache):
        self.places = {"data_root": None, "cache_dir": cache}

    def resolve(self, data, draw=0):
        return resolve(data, draw, **self.places)

    def load(self, data, draw=0):
        return load(self.resolve(data, draw), data, **self.places)


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path / "cache")


# --- every data set -----------------------------------------------------------------------------


def manifest_of(root, rows):
    root.mkdir(exist_ok=True)
    with (root / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return root / "manifest.csv"


def opened_each(tmp_path):
    make_tiny(tmp_path / "tiny")
    for split in ("train", "val"):
        write_files(
            tmp_path / "ilsvrc", [f"{split}/{c}/{i}.JPEG" for c in (DOG, CAT) for i in range(5)]
        )
    make_folder(tmp_path / "photos")
    rows = [(f"../photos/{c}/{i}.png", c) for c in ("cat", "dog") for i in range(8)]
    manifest_of(tmp_path, [("path", "label"), *((path[3:], label) for path, label in rows)])
    roots = {
        "tiny-imagenet": tmp_path / "tiny",
        "imagenet": tmp_path / "ilsvrc",
        "folder": tmp_path / "photos",
        "manifest": tmp_path / "manifest.csv",
    }
    for name in DATASETS:
        root = roots.get(name)
        if name in FORMATS and name != "imagenet":
            continue  # tests/data/formats has a contract of its own for them
        given = (
            {} if name in ("wordnet-shapes", "tiny-imagenet", "imagenet") else {"test_per_class": 3}
        )
        if name == "imagenet":
            given = {"options": {"partial": True}}
        classes = RandomClasses(n=2)
        yield spec(name, root, classes=classes, **given)


def test_every_data_set_keeps_the_contract(tmp_path, bench):
    for data in opened_each(tmp_path):
        given = bench.places | {"options": data.options}
        dataset = open_dataset(data.dataset, data.root, **given)
        assert list(dataset.classes) == sorted(dataset.classes)
        assert open_dataset(data.dataset, data.root, **given) is dataset
        for label in dataset.classes[:3]:
            images = dataset.images_of(label)
            assert [image.key for image in images] == sorted({image.key for image in images})
            assert {image.label for image in images} == {label}
            assert all(len(image.sha256) == 64 for image in images)
        assert dataset.has_test == ("test" in {i.split for i in dataset.images_of(label)})
        resolved, loaded = bench.resolve(data), bench.load(data)
        assert Counter(i.label for i in resolved.train) == dict.fromkeys(resolved.classes, 2)
        assert Counter(i.label for i in resolved.val) == dict.fromkeys(resolved.classes, 1)
        assert loaded.images.shape == (len(resolved.images), 8, 8, 3)
        assert loaded.images.dtype == np.uint8
        rows = np.concatenate([loaded.train, loaded.val, loaded.test])
        assert rows.tolist() == list(range(len(loaded.images)))
        labels = [resolved.classes[label] for label in loaded.labels]
        assert labels == [image.label for image in resolved.images]
        again = list(dataset.read(resolved.images, 8))
        assert (np.stack(again) == loaded.images).all()


def test_a_selection_is_drawn_once_and_kept_with_the_last_few(bench, monkeypatch):
    drawn = []

    def split_pools(pools, data, draw, allowed):
        drawn.append(draw)
        return split(pools, data, draw, allowed)

    split = catalog.split_pools
    monkeypatch.setattr(catalog, "split_pools", split_pools)
    data = spec("wordnet-shapes", classes=RandomClasses(n=2, class_draw=7))
    first = bench.resolve(data, 0)
    assert bench.resolve(data.model_copy(), 0) is first
    assert bench.resolve(data, 1) != first
    assert bench.resolve(data, 0) is first
    assert drawn == [0, 1]
    for draw in range(2, 10):
        bench.resolve(data, draw)
    again = bench.resolve(data, 0)
    assert (again, drawn[2:]) == (first, [*range(2, 10), 0])
    assert again is not first


# --- where data lie -----------------------------------------------------------------------------


def test_roots_are_found_as_the_place_itself_its_parent_or_an_archive(tmp_path, monkeypatch):
    make_tiny(tmp_path / "a" / "tiny-imagenet-200")
    (tmp_path / "b").mkdir()
    tar = make_tar(tmp_path / "b" / "tiny-imagenet-200.tar.gz", tmp_path / "a/tiny-imagenet-200")
    folder = (tmp_path / "a" / "tiny-imagenet-200").resolve()
    assert resolve_root("tiny-imagenet", str(folder), None) == folder
    assert resolve_root("tiny-imagenet", str(folder.parent), None) == folder
    assert resolve_root("tiny-imagenet", None, folder.parent) == folder
    assert resolve_root("tiny-imagenet", None, tar.parent) == tar.resolve()
    assert resolve_root("tiny-imagenet", str(tar), None) == tar.resolve()
    assert resolve_root("tiny-imagenet", "a", tmp_path) == folder
    monkeypatch.setenv("BENCH_DATA", str(tar.parent))
    assert resolve_root("tiny-imagenet", None, None) == tar.resolve()
    assert resolve_root("tiny-imagenet", None, folder.parent) == folder
    assert resolve_root("wordnet-shapes", None, tmp_path) is None


def test_missing_data_say_what_was_expected_what_is_there_and_how_to_give_it(tmp_path):
    (tmp_path / "holiday").mkdir()
    with pytest.raises(MissingDataError) as caught:
        resolve_root("tiny-imagenet", None, tmp_path)
    text = str(caught.value)
    for part in ("holiday", "train/<wnid>/images", "--data-root", "BENCH_DATA", "root:"):
        assert part in text
    with pytest.raises(MissingDataError, match="does not exist"):
        resolve_root("folder", str(tmp_path / "nowhere"), None)
    with pytest.raises(MissingDataError, match="no place to look"):
        resolve_root("imagenet", None, None)
    with pytest.raises(DataError, match="tiny-imagenet, "):
        resolve_root("tiny-imagnet", None, None)
    with pytest.raises(DataError, match="has no files"):
        resolve_root("digits", "photos", None)


# --- one content, one fingerprint -----------------------------------------------------------------


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_archive_and_folder_of_the_same_content_have_the_same_fingerprint(tmp_path, bench, mode):
    root = make_tiny(tmp_path / "tiny")
    tar = make_tar(tmp_path / f"t.tar{mode[1:].replace(':', '.')}", root, mode=mode)
    of_folder, of_tar = (spec("tiny-imagenet", place) for place in (root, tar))
    assert bench.resolve(of_folder).fingerprint == bench.resolve(of_tar).fingerprint
    assert bench.resolve(of_folder).dataset_fingerprint == bench.resolve(of_tar).dataset_fingerprint
    other = Bench(tmp_path / "cache of the archive")
    assert (bench.load(of_folder).images == other.load(of_tar).images).all()
    assert len(bench.resolve(of_tar).test) == 6
    # and a second process reads table and pack
    known = open_format(DATASETS["tiny-imagenet"], tar, tmp_path / "cache")
    assert known.files.read(f"train/{DOG}/images/{DOG}_0.JPEG") == picture(
        f"train/{DOG}/images/{DOG}_0.JPEG"
    )


def test_moving_the_folder_keeps_the_fingerprint_and_changing_an_image_does_not(tmp_path, bench):
    root = make_folder(tmp_path / "photos")
    data = spec("folder", root, test_per_class=2, images_per_class=None)
    before = bench.resolve(data).fingerprint
    shutil.move(root, tmp_path / "moved")
    moved = data.model_copy(update={"root": str(tmp_path / "moved")})
    assert bench.resolve(moved).fingerprint == before
    shutil.copytree(tmp_path / "moved", tmp_path / "changed")
    (tmp_path / "changed/cat/0.png").write_bytes(picture("something else"))
    changed = data.model_copy(update={"root": str(tmp_path / "changed")})
    assert bench.resolve(changed).fingerprint != before
    assert bench.resolve(data.model_copy(update={"root": str(tmp_path / "moved")}), 1).fingerprint


def test_classes_and_draw_are_in_the_fingerprint_but_size_is_not(tmp_path, bench):
    root = make_folder(tmp_path / "photos")
    data = spec("folder", root, test_per_class=2)
    swapped = data.model_copy(update={"classes": ListedClasses(names=("dog", "cat"))})
    prints = [
        bench.resolve(data).fingerprint,
        bench.resolve(data, 1).fingerprint,
        bench.resolve(swapped).fingerprint,
        bench.resolve(data.model_copy(update={"images_per_class": 3})).fingerprint,
    ]
    assert len(set(prints)) == 4
    assert bench.resolve(data.model_copy(update={"image_size": 9})).fingerprint == prints[0]


def test_a_torn_or_foreign_index_is_made_anew(tmp_path, bench):
    root = make_folder(tmp_path / "photos")
    data = spec("folder", root, test_per_class=2)
    expected = bench.resolve(data).fingerprint
    (stored,) = (tmp_path / "cache" / "index").iterdir()
    whole = stored.read_bytes()
    for content in (b"", whole[: len(whole) // 2], b'{"format": "other"}', b"[1]"):
        stored.write_bytes(content)
        files = open_format(DATASETS["folder"], root, tmp_path / "cache").files
        assert len(list(files.table.keys())) == 16
        assert stored.read_bytes() == whole
    assert bench.resolve(data).fingerprint == expected


def test_an_image_that_changed_after_indexing_is_an_error(tmp_path, bench):
    root = make_folder(tmp_path / "photos")
    data = spec("folder", root, test_per_class=2, images_per_class=None)
    resolved = bench.resolve(data)
    (root / "cat/0.png").write_bytes(picture("new"))
    with pytest.raises(DataError, match=r"'cat/0.png' is not what it was"):
        load(resolved, data, **bench.places)


def test_an_image_edited_with_the_same_size_and_time_is_seen_after_what_the_hint_says(
    tmp_path, bench
):
    root = make_folder(tmp_path / "my photos")
    data = spec("folder", root, test_per_class=2, images_per_class=None)
    bench.resolve(data)
    edited = root / "cat/0.png"
    before, bytes_before = edited.stat(), edited.read_bytes()
    edited.write_bytes(bytes_before[:-1] + bytes([bytes_before[-1] ^ 1]))
    os.utime(edited, ns=(before.st_atime_ns, before.st_mtime_ns))
    for _ in range(2):  # starting again alone does not help: nothing shows that it has changed
        catalog._open.cache_clear()
        with pytest.raises(DataError) as error:
            load(bench.resolve(data), data, **bench.places)
    assert str(error.value) == (
        f"{edited}: image 'cat/0.png' is not what it was when the data were indexed\n"
        f"  type touch '{edited}' and start the command again: by its new time of change the file "
        "is seen to be another, and the data are indexed as they are now"
    )
    command = str(error.value).partition("type ")[2].partition(" and start")[0]
    subprocess.run(command, shell=True, check=True)
    catalog._open.cache_clear()  # as in the process of the next command
    edited_now = {image.key: image.sha256 for image in bench.resolve(data).images}["cat/0.png"]
    assert edited_now == hashlib.sha256(edited.read_bytes()).hexdigest()


# --- corrupt images -----------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["text", "truncated", "empty"])
def test_a_corrupt_image_is_named_or_skipped_and_counted(tmp_path, bench, damage):
    root = make_folder(tmp_path / "photos", n=7)
    bad = root / "cat/3.png"
    whole = bad.read_bytes()
    bad.write_bytes({"text": b"no image", "truncated": whole[:-40], "empty": b""}[damage])
    data = spec("folder", root, test_per_class=2, images_per_class=3)
    everything = data.model_copy(update={"images_per_class": 4})
    with pytest.raises(DataError, match=r"'cat/3.png' cannot be decoded(.|\n)*on_corrupt: skip"):
        bench.load(everything)
    skipping = data.model_copy(update={"on_corrupt": "skip"})
    resolved = bench.resolve(skipping)
    assert resolved.notes == {"skipped_corrupt": 1, "skipped_corrupt_images": ["cat/3.png"]}
    assert Counter(i.label for i in resolved.train) == {"cat": 3, "dog": 3}
    assert "cat/3.png" not in {image.key for image in resolved.images}
    assert len(bench.load(skipping).images) == 12
    with pytest.raises(DataError, match="cat: 3 of 4 train"):
        bench.resolve(everything.model_copy(update={"on_corrupt": "skip"}))


# --- layouts ------------------------------------------------------------------------------------


def test_folder_with_split_folders(tmp_path, bench):
    root = make_folder(tmp_path / "photos", splits=("train", "val", "test"))
    resolved = bench.resolve(spec("folder", root))
    assert {image.key.split("/")[0] for image in resolved.train} == {"train"}
    assert {image.key.split("/")[0] for image in resolved.val} == {"val"}
    assert len(resolved.test) == 16


def test_a_class_may_be_called_test(tmp_path, bench):
    root = make_folder(tmp_path / "photos", classes=("test", "control"))
    assert open_dataset("folder", str(root), **bench.places).classes == ("control", "test")


@pytest.mark.parametrize(
    ("tops", "says", "way_out"),
    [
        (("train", "valid"), "'valid' looks like a split", "rename valid/ to val/"),
        (("train", "Test"), "'Test' looks like a split", "rename Test/ to test/"),
        (("train", "dev", "test"), "'dev' looks", "rename dev/ to val/"),
        (("training", "TESTING"), "'TESTING' and 'training' look", "training/ to train/"),
        (("train_images", "eval"), "'eval' and 'train_images'", "eval/ to val/"),
        (("train", "valid", "validation"), "'valid' and", "valid/ into one folder val/"),
        (("train", "test", "notes"), "images in 'notes'", "move 'notes' away"),
        (("test",), "no folder train/", "into train/"),
        (("val", "test"), "no folder train/", "into train/"),
        (("photos",), "one folder, 'photos'", "set root: "),
    ],
)
def test_folders_that_may_be_splits_are_no_guess(tmp_path, bench, tops, says, way_out):
    root = make_folder(tmp_path / "data", n=2, splits=tops)
    with pytest.raises(DataError, match=says) as caught:
        open_dataset("folder", str(root), **bench.places)
    assert way_out in str(caught.value)
    assert str(root) in str(caught.value)


def test_classes_beside_split_folders_are_an_error(tmp_path, bench):
    root = make_folder(tmp_path / "photos", n=2, splits=("train", "test", ""))
    with pytest.raises(DataError, match="images in 'cat'; 'dog'"):
        open_dataset("folder", str(root), **bench.places)


def test_two_classes_called_like_splits_are_an_error(tmp_path, bench):
    root = make_folder(tmp_path / "photos", classes=("train", "validation"), n=2)
    with pytest.raises(DataError, match=r"'validation' looks like a split.*\n.*dataset: manifest"):
        open_dataset("folder", str(root), **bench.places)


@pytest.mark.parametrize("only", [("train", "bird"), ("test", "bird")])
def test_splits_with_different_classes_are_an_error(tmp_path, bench, only):
    root = make_folder(tmp_path / "photos", n=3, splits=("train", "test"))
    write_files(root, [f"{only[0]}/{only[1]}/{n}.png" for n in range(3)])
    other = {"train": "test", "test": "train"}[only[0]]
    data = spec("folder", root, val_per_class=1, images_per_class=1, test_per_class=1)
    with pytest.raises(
        DataError, match=f"different classes.*not in {other}: {only[1]}\n.*same name"
    ):
        bench.resolve(data)
    dropping = data.model_copy(update={"on_short": "drop_class"})
    assert bench.resolve(dropping).classes == ("cat", "dog")


def test_one_class_is_nothing_to_learn(tmp_path, bench):
    for recipe in (RandomClasses(n=1), ListedClasses(names=("3",)), AllClasses(take=1)):
        data = spec("digits", classes=recipe, images_per_class=5, test_per_class=5)
        with pytest.raises(DataError, match=rf"one class, '\d'.*at least two.*\n.*{recipe.recipe}"):
            bench.resolve(data)
    root = make_folder(tmp_path / "photos", n=9)
    for n in range(2, 9):
        (root / f"dog/{n}.png").unlink()
    data = spec("folder", root, test_per_class=2, val_per_class=2, on_short="drop_class")
    with pytest.raises(DataError, match=r"one class, 'cat'.*\n.*drop_class left out dog"):
        bench.resolve(data)


def test_unknown_homes_are_errors_of_the_data(bench):
    with pytest.raises(DataError, match="nosuchuser"):
        bench.resolve(spec("folder", "~nosuchuser/x"))


def test_loose_images_single_classes_and_empty_folders_are_refused(tmp_path, bench):
    root = make_folder(tmp_path / "photos")
    write_files(root, ["loose.png"])
    with pytest.raises(DataError, match=r"loose\.png"):
        open_dataset("folder", str(root), **bench.places)
    with pytest.raises(DataError, match="one class, 'cat'"):
        open_dataset("folder", str(make_folder(tmp_path / "one", ["cat"])), **bench.places)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images"):
        open_dataset("folder", str(tmp_path / "empty"), **bench.places)


def test_links_are_followed_but_not_in_circles(tmp_path, bench):
    root = make_folder(tmp_path / "photos")
    (tmp_path / "farm").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "farm" / name).symlink_to(root / name)
    direct, linked = (
        bench.resolve(spec("folder", place, test_per_class=2))
        for place in (root, root.parent / "farm")
    )
    assert direct.fingerprint == linked.fingerprint
    (root / "cat" / "again").symlink_to(root)
    with pytest.raises(DataError, match="link to a folder that it lies in"):
        open_format(DATASETS["folder"], root, tmp_path / "cache")


def test_imagenet_refuses_a_flat_val_folder(tmp_path, bench):
    write_files(tmp_path, [f"train/{DOG}/1.JPEG", f"train/{CAT}/1.JPEG", "val/flat.JPEG"])
    with pytest.raises(DataError, match="or sort val/ into a folder per class"):
        open_dataset("imagenet", str(tmp_path), **bench.places)


def test_tiny_imagenet_refuses_incomplete_copies(tmp_path, bench):
    root = make_tiny(tmp_path / "tiny")
    (root / "val/images/val_3.JPEG").unlink()
    with pytest.raises(DataError, match=r"differ in 1 images: val/images/val_3\.JPEG"):
        open_dataset("tiny-imagenet", str(root), **bench.places)


def test_the_real_tiny_imagenet(shared, tmp_path):
    tar = shared / "data" / "tiny-imagenet-200.tar.gz"
    if not tar.is_file():
        pytest.skip(f"no {tar}")
    places = {"data_root": tar.parent, "cache_dir": tmp_path}
    dataset = open_dataset("tiny-imagenet", **places)
    assert len(dataset.classes) == 200
    assert dataset.wnid_keyed
    counts = {
        tuple(sorted(Counter(i.split for i in dataset.images_of(label)).items()))
        for label in dataset.classes
    }
    assert counts == {(("test", 50), ("train", 250))}
    data = DataSpec(dataset="tiny-imagenet", classes=RandomClasses(n=3), images_per_class=5)
    loaded = load(resolve(data, 0, **places), data, **places)
    assert loaded.images.shape == (3 * (5 + 10 + 50), 32, 32, 3)
    assert 60 < loaded.images.mean() < 190


# --- manifests ------------------------------------------------------------------------------------


def test_a_manifest_gives_splits_and_groups(tmp_path, bench):
    make_folder(tmp_path, n=9)
    rows = [
        (f"{c}/{i}.png", f"a {c}", "test" if i < 2 else "", f"g{c}{i // 2}" if i > 2 else "")
        for c in ("cat", "dog")
        for i in range(9)
    ]
    path = manifest_of(tmp_path, [("path", "label", "split", "group"), *rows])
    dataset = open_dataset("manifest", str(path), **bench.places)
    assert dataset.classes == ("a cat", "a dog")
    assert Counter(i.split for i in dataset.images_of("a cat")) == {"train": 7, "test": 2}
    assert [i.group for i in dataset.images_of("a cat")][2:5] == [None, "gcat1", "gcat2"]
    resolved = bench.resolve(spec("manifest", path))
    assert not {i.group for i in resolved.train} & {i.group for i in resolved.val} - {None}
    assert bench.load(spec("manifest", path)).images.shape[0] == len(resolved.images)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([("path", "lable")], "'lable' is not known; nearest: label"),
        ([("path",)], "'label' is missing"),
        ([("path", "label"), ("../secret.png", "x")], "manifest.csv:2: path '../secret.png' leads"),
        ([("path", "label"), ("/etc/x.png", "x")], "leads out"),
        ([("path", "label"), ("cat/../../secret.png", "x")], "leads out"),
        ([("path", "label"), ("link/secret.png", "x")], "leads out"),
        ([("path", "label"), ("cat\\0.png", "x")], "leads out"),
        ([("path", "label"), ("cat/99.png", "x")], "there is no image"),
        ([("path", "label"), ("cat/0.png", "x"), ("./cat/0.png", "x")], "manifest.csv:3: .*twice"),
        ([("path", "label"), ("cat/0.png", "")], "label is empty"),
        ([("path", "label"), ("cat/0.png",)], "as many fields"),
        ([("path", "label"), ("cat/0.png", "x", "y")], "as many fields"),
        ([("path", "label", "split"), ("cat/0.png", "x", "tset")], "use test"),
    ],
)
def test_bad_manifests_are_refused_with_the_line(tmp_path, bench, rows, says):
    make_folder(tmp_path / "data", n=2)
    write_files(tmp_path, ["secret.png"])
    (tmp_path / "data" / "link").symlink_to(tmp_path)
    path = manifest_of(tmp_path / "data", rows)
    with pytest.raises(DataError, match=says):
        open_dataset("manifest", str(path), **bench.places)


# --- archives -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "line", "way_out"),
    [
        ("path,label\na.png,cat\nb.png,K\xe4se\n".encode("latin-1"), 3, "latin1"),
        ("path,label\na.png,cat\n".encode("utf-16"), 1, "utf-16"),
        (b"path;label\na.png;cat\n", 1, "not by ';'"),
        (b"path,label\na.png\n", 2, "every line"),
        (b"path,label\nx\\a.png,cat\n", 2, "no \\"),
        (b"path,label\nnone.png,cat\n", 2, "looked for"),
        (b"path,label\nmanifest.csv,cat\n", 2, ".jpg"),
        (b'path,label\n"a.png"x,cat\n', 2, "double quotes"),
        (b'"path"x,label\n', 1, "double quotes"),
    ],
)
def test_tables_of_other_programs_are_errors_with_line_and_way_out(
    tmp_path, bench, raw, line, way_out
):
    write_files(tmp_path, ["a.png", "b.png"])
    (tmp_path / "manifest.csv").write_bytes(raw)
    with pytest.raises(DataError) as caught:
        open_dataset("manifest", str(tmp_path), **bench.places)
    assert f"manifest.csv:{line}: " in str(caught.value)
    assert way_out in str(caught.value)


def add(archive, name, content=b"", kind=tarfile.REGTYPE, target=""):
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, target, len(content)
    archive.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize(
    ("name", "kind", "target"),
    [
        ("../outside.png", tarfile.REGTYPE, ""),
        ("cat/../../outside.png", tarfile.REGTYPE, ""),
        ("/tmp/outside.png", tarfile.REGTYPE, ""),
        ("C:/outside.png", tarfile.REGTYPE, ""),
        ("cat\\..\\outside.png", tarfile.REGTYPE, ""),
        ("cat/9.png", tarfile.SYMTYPE, "/etc/passwd"),
        ("cat/9.png", tarfile.LNKTYPE, "cat/0.png"),
        ("cat/9.png", tarfile.CHRTYPE, ""),
        ("cat/9.png", tarfile.FIFOTYPE, ""),
        ("../outside", tarfile.DIRTYPE, ""),
    ],
)
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_an_unsafe_archive_is_refused_as_a_whole(tmp_path, bench, name, kind, target, mode):
    path = tmp_path / "in" / ("a.tar" if mode == "w" else "a.tar.gz")
    path.parent.mkdir()
    with tarfile.open(path, mode) as archive:
        for label in ("cat", "dog"):
            add(archive, f"{label}/0.png", picture(label))
        add(archive, name, kind=kind, target=target)
    with pytest.raises(DataError, match=r"refused: member .* nothing was extracted"):
        open_dataset("folder", str(path), **bench.places)
    left = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert left == [path]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_torn_archive_is_refused(tmp_path, bench, mode):
    whole = make_tar(tmp_path / "a.tar", make_folder(tmp_path / "photos"), mode=mode).read_bytes()
    ends = [len(whole) // 2, len(whole) - 11000 if mode == "w" else len(whole) - 9]
    for number, end in enumerate(ends):
        torn = tmp_path / f"torn{number}.tar"
        torn.write_bytes(whole[:end])
        with pytest.raises(DataError, match="cannot be read to its end"):
            open_dataset("folder", str(torn), **bench.places)


def test_nothing_of_an_archive_is_extracted(tmp_path, bench):
    tar = make_tar(tmp_path / "a.tar.gz", make_folder(tmp_path / "photos"))
    shutil.rmtree(tmp_path / "photos")
    bench.load(spec("folder", tar, test_per_class=2))
    files = {p.suffix for p in tmp_path.rglob("*") if p.is_file()}
    assert files == {".gz", ".json", ".pack", ".table", ".npy"}


def test_members_twice_and_too_large_are_refused(tmp_path, bench, monkeypatch):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        add(archive, "cat/0.png", picture("1"))
        add(archive, "./cat/0.png", picture("2"))
    with pytest.raises(DataError, match="there twice"):
        open_dataset("folder", str(path), **bench.places)
    monkeypatch.setattr("bench.data.files.archive.MAX_MEMBER_BYTES", 10)
    with pytest.raises(DataError, match="more than the limit"):
        open_dataset("folder", str(path), **bench.places)


# --- decoding -------------------------------------------------------------------------------------


def encoded(picture_, kind="PNG", **options):
    file = io.BytesIO()
    picture_.save(file, kind, **options)
    return file.getvalue()


def test_decoding_takes_the_centre_square_and_averages():
    grey = np.zeros((40, 80), np.uint8)
    grey[:, 20:60:2] = 200  # the centre square is a fine grating
    small = decode(encoded(Pillow.fromarray(grey)), 10)
    assert small.shape == (10, 10, 3)
    assert abs(small[2:8, 2:8].astype(int) - 100).max() <= 1  # antialiased: no moiré


def test_decoding_of_unusual_files():
    sixteen = Pillow.fromarray(np.full((4, 4), 0x8000, np.uint16))
    assert (decode(encoded(sixteen), 4) == 0x80).all()  # not clipped to 255
    clear = np.zeros((4, 4, 4), np.uint8)
    clear[0, 0] = 255  # transparent but for a pixel
    assert (decode(encoded(Pillow.fromarray(clear)), 4) == 255).all()
    palette = Pillow.new("RGB", (4, 4), (255, 0, 0)).convert("P")
    assert (decode(encoded(palette), 2) == (255, 0, 0)).all()
    cmyk = Pillow.new("CMYK", (4, 4), (0, 0, 0, 0))
    assert (decode(encoded(cmyk, "JPEG"), 2) == 255).all()
    upright = np.zeros((4, 4, 3), np.uint8)
    upright[:2] = 255
    exif = Pillow.Exif()
    exif[0x0112] = 3  # upside down
    turned = decode(encoded(Pillow.fromarray(upright), "PNG", exif=exif), 4)
    assert turned[3, 0, 0] > turned[0, 0, 0]
    with pytest.raises(UnreadableError, match="32 bits"):
        decode(encoded(Pillow.fromarray(np.zeros((4, 4), np.float32)), "TIFF"), 4)


def test_large_jpegs_are_reduced_while_decoding_without_a_visible_difference():
    ramp = np.linspace(0, 255, 512).astype(np.uint8)
    large = Pillow.fromarray(np.stack([np.tile(ramp, (512, 1))] * 3, axis=2))
    plain = decode(encoded(large), 32)
    assert abs(decode(encoded(large, "JPEG", quality=95), 32).astype(int) - plain).max() <= 3


def test_paths_of_the_machine_are_in_no_fingerprint(tmp_path):
    root = make_folder(tmp_path / "photos")
    for place in ("a", "b"):
        shutil.copytree(root, tmp_path / place / "x")
    found = {
        Bench(tmp_path / place / "cache")
        .resolve(spec("folder", Path(tmp_path / place / "x"), test_per_class=1))
        .fingerprint
        for place in ("a", "b")
    }
    assert len(found) == 1


@pytest.mark.parametrize("deletions", [1, 2, 3])
def test_an_unpacked_archive_that_is_deleted_with_the_cache_is_unpacked_again(
    tmp_path, monkeypatch, deletions
):
    folder = make_folder(tmp_path / "set")
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as packed:
        for path in sorted(folder.rglob("*.png")):
            packed.write(path, path.relative_to(folder))
    data = DataSpec(
        dataset="folder",
        root=str(tmp_path / "set.zip"),
        image_size=8,
        val_per_class=2,
        test_per_class=2,
    )
    places = {"data_root": None, "cache_dir": tmp_path / "cache"}
    resolved = resolve(data, 0, **places)
    left, cached = iter(range(deletions)), catalog.cached_images

    def after_a_deletion(*arguments, **options):
        if next(left, None) is not None:
            shutil.rmtree(tmp_path / "cache")
        return cached(*arguments, **options)

    monkeypatch.setattr(catalog, "cached_images", after_a_deletion)
    if deletions == 3:  # somebody deletes it again and again
        with pytest.raises(DataError, match=r"\.pack: image '.*' cannot be read \(No such file"):
            load(resolved, data, **places)
        return
    loaded = load(resolved, data, **places)
    assert loaded.images.shape == (16, 8, 8, 3)
