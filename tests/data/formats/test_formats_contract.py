"""One contract for every data set in its authors' layout, on small trees with that layout."""

import csv
import hashlib
import io
import json
import shutil
import tarfile
import zipfile
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow
from scipy.io import savemat

from bench.core.errors import DataError
from bench.data.catalog import load, resolve
from bench.data.datasets import DATASETS
from bench.data.files.tree import open_tree
from bench.data.formats.contract import Counts
from bench.data.formats.registry import FORMATS
from bench.data.identities import resolve_identities
from bench.data.opened import open_format
from bench.data.places import MissingDataError, resolve_root
from bench.specs.data import DataSpec
from bench.specs.evaluation import EvaluateSpec
from bench.specs.run import ModelSpec, RunSpec

DOG, CAT = "n02085620", "n02123045"
BIRDS = ("001.Black_footed_Albatross", "002.Laysan_Albatross")


def picture(text, side=8):
    seed = hashlib.sha256(text.encode()).digest()
    pixels = np.random.default_rng(list(seed)).integers(0, 256, (side, side, 3), np.uint8)
    file = io.BytesIO()
    Pillow.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write(root, **texts):
    for name, content in texts.items():
        put(root / name, content)


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def images(root, paths, side=8):
    for path in paths:
        put(root / path, picture(Path(path).name, side))
    return list(paths)


def lines(*rows):
    return "".join(f"{row}\n" for row in rows)


def cells(texts):
    """A MATLAB cell array, as the authors' list files have them."""
    array = np.empty((len(texts), 1), dtype=object)
    array[:, 0] = texts
    return array


def mat(path, **arrays):
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, arrays)


def tar(path, root, *names, arcname=None, mode="w"):
    """What the authors would have packed; the originals go."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name in names:
            archive.add(root / name, arcname=arcname or name)
    drop(root, names)


def pack_zip(path, root, *names):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            found = [root / name] if (root / name).is_file() else sorted((root / name).rglob("*"))
            for file in found:
                archive.write(file, file.relative_to(root).as_posix())
    drop(root, names)


def drop(root, names):
    for name in names:
        shutil.rmtree(root / name) if (root / name).is_dir() else (root / name).unlink()


@dataclass(frozen=True)
class Case:
    """A small tree and what must be read from it.

    `lists` are files without which it cannot be read; `image` is one whose absence must be told.
    """

    build: object
    classes: tuple
    splits: dict
    image: str
    lists: tuple = ()
    options: dict = field(default_factory=dict)
    groups: frozenset = frozenset({None})
    boxes: tuple = ()
    pack: object = None
    listed: bool = True


# --- the layouts --------------------------------------------------------------------------------


def imagenet(root):
    for wnid in (DOG, CAT):
        images(root, [f"train/{wnid}/{wnid}_{i}.JPEG" for i in range(4)])
    names = [f"ILSVRC2012_val_{i:08d}.JPEG" for i in range(1, 5)]
    images(root, [f"val/{name}" for name in names])
    kit = root / "ILSVRC2012_devkit_t12" / "data"
    kind = [
        ("ILSVRC2012_ID", object),
        ("WNID", object),
        ("words", object),
        ("num_children", object),
    ]
    rows = [
        (1, CAT, "tabby, tabby cat", 0),
        (2, DOG, "Chihuahua", 0),
        (3, "n00001740", "entity", 2),
    ]
    mat(kit / "meta.mat", synsets=np.array([[row] for row in rows], dtype=kind))
    put(kit / "ILSVRC2012_validation_ground_truth.txt", lines(2, 1, 1, 2))


def imagenet_packed(root):
    for wnid in (DOG, CAT):
        folder = root / "train" / wnid
        names = sorted(path.name for path in folder.iterdir())
        tar(root / "outer" / f"{wnid}.tar", folder, *names)
    shutil.rmtree(root / "train")
    tar(root / "ILSVRC2012_img_train.tar", root / "outer", f"{CAT}.tar", f"{DOG}.tar")
    shutil.rmtree(root / "outer")
    names = sorted(path.name for path in (root / "val").iterdir())
    tar(root / "ILSVRC2012_img_val.tar", root / "val", *names)
    (root / "val").rmdir()
    tar(root / "ILSVRC2012_devkit_t12.tar.gz", root, "ILSVRC2012_devkit_t12", mode="w:gz")


def places205(root):
    rows = {"train": [], "val": []}
    for index, label in enumerate(("a/abbey", "a/apartment_building/outdoor")):
        for i in range(4):
            rows["train"].append((f"{label}/gsun_{index}{i:03d}a.jpg", index))
        rows["val"].append((f"{label}/gsun_{index}b.jpg", index))
    for name, listed in rows.items():
        images(root / "data/vision/torralba/deeplearning/images256", [p for p, _ in listed])
        text = lines(*(f"{path} {index}" for path, index in listed))
        put(root / f"trainvalsplit_places205/{name}_places205.csv", text)


def places205_packed(root):
    tar(root / "imagesPlaces205_resize.tar.gz", root, "data", mode="w:gz")
    tar(root / "trainvalsplit_places205.tar.gz", root, "trainvalsplit_places205", mode="w:gz")


def caltech256(root):
    top = root / "256_ObjectCategories"
    for number, name in ((1, "ak47"), (2, "american-flag"), (257, "clutter")):
        images(top, [f"{number:03d}.{name}/{number:03d}_{i:04d}.jpg" for i in range(1, 5)])
    images(top, ["001.ak47/greg/vision309/picture.jpg"])
    put(top / "002.american-flag/RENAME2", "no image")


def sun397(root):
    top = root / "SUN397"
    labels = ("a/abbey", "a/apartment_building/outdoor")
    put(top / "ClassName.txt", lines(*(f"/{label}" for label in labels)))
    for label in labels:
        images(top, [f"{label}/sun_{label[2:4]}{i}.jpg" for i in range(6)])
    for part, numbers in (("Training", (0, 1)), ("Testing", (2, 3))):
        rows = [f"/{label}/sun_{label[2:4]}{i}.jpg" for label in labels for i in numbers]
        put(top / f"{part}_02.txt", lines(*rows))


def indoor67(root):
    rows = {"Train": [], "Test": []}
    for label in ("airport_inside", "bakery"):
        for i in range(6):
            path = f"{label}/{label}_{i:04d}_thumb.jpg"
            images(root / "Images", [path])
            if i < 5:
                rows["Test" if i == 4 else "Train"].append(path)
    for name, listed in rows.items():
        put(root / f"{name}Images.txt", "\n".join(listed))


def cub200(root):
    top = root / "CUB_200_2011"
    tables = {name: [] for name in ("images", "image_class_labels", "train_test_split", "boxes")}
    number = 0
    for label, bird in enumerate(BIRDS, start=1):
        for i in range(5):
            number += 1
            path = f"{bird}/{bird[4:]}_{i:04d}_{796100 + number}.jpg"
            images(top / "images", [path])
            tables["images"].append(f"{number} {path}")
            tables["image_class_labels"].append(f"{number} {label}")
            tables["train_test_split"].append(f"{number} {int(i < 4)}")
            tables["boxes"].append(f"{number} 1.0 2.0 5.0 4.0")
    tables["bounding_boxes"] = tables.pop("boxes")
    tables["classes"] = [f"{n} {bird}" for n, bird in enumerate(BIRDS, start=1)]
    for name, rows in tables.items():
        put(top / f"{name}.txt", lines(*rows))


VOC = """<annotation>
\t<folder>x</folder>
\t<filename>{name}</filename>
\t<size><width>8</width><height>8</height><depth>3</depth></size>
\t<object>
\t\t<name>{what}</name>
\t\t<bndbox>
\t\t\t<xmin>2</xmin>
\t\t\t<ymin>3</ymin>
\t\t\t<xmax>6</xmax>
\t\t\t<ymax>7</ymax>
\t\t</bndbox>
\t</object>
</annotation>
"""


def stanford_dogs(root):
    lists = {"train": [], "test": []}
    for wnid, breed in ((DOG, "Chihuahua"), ("n02085782", "Japanese_spaniel")):
        for i in range(5):
            stem = f"{wnid}-{breed}/{wnid}_{100 + i}"
            images(root / "Images", [f"{stem}.jpg"])
            put(root / "Annotation" / stem, VOC.format(name=Path(stem).name, what=breed))
            lists["train" if i < 4 else "test"].append(stem)
    for name, stems in lists.items():
        labels = np.array([[1 + (DOG not in stem)] for stem in stems], dtype=np.uint8)
        files = cells([f"{stem}.jpg" for stem in stems])
        mat(root / f"{name}_list.mat", file_list=files, annotation_list=cells(stems), labels=labels)


def stanford_dogs_packed(root):
    tar(root / "images.tar", root, "Images")
    tar(root / "annotation.tar", root, "Annotation")
    tar(root / "lists.tar", root, "train_list.mat", "test_list.mat")


def stanford40(root):
    actions = ("applauding", "blowing_bubbles")
    rows = ["action_name     number_of_train_images", *(f"{a}\t100" for a in actions)]
    put(root / "ImageSplits/actions.txt", lines(*rows))
    for action in actions:
        names = [f"{action}_{i:03d}.jpg" for i in range(1, 6)]
        images(root / "JPEGImages", names)
        put(root / f"ImageSplits/{action}_train.txt", lines(*names[:4]))
        put(root / f"ImageSplits/{action}_test.txt", lines(*names[4:]))
        for name in names:
            put(root / f"XMLAnnotations/{name[:-4]}.xml", VOC.format(name=name, what="person"))


def stanford40_packed(root):
    for name in ("JPEGImages", "ImageSplits", "XMLAnnotations"):
        pack_zip(root / f"Stanford40_{name}.zip", root, name)


def aircraft(root):
    top = root / "fgvc-aircraft-2013b" / "data"
    put(top / "variants.txt", lines("707-320", "F/A-18", "Boeing 717"))
    rows = {"train": [], "val": [], "test": []}
    boxes = []
    for number, label in enumerate(("707-320", "F/A-18", "Boeing 717")):
        for i in range(6):
            image = f"{1000000 + 10 * number + i}"
            images(top / "images", [f"{image}.jpg"])
            rows["train" if i < 3 else "val" if i < 5 else "test"].append(f"{image} {label}")
            boxes.append(f"{image} 2 3 6 7")
    for split, listed in rows.items():
        put(top / f"images_variant_{split}.txt", lines(*listed))
    put(top / "images_box.txt", lines(*boxes))


def flowers102(root):
    images(root, [f"jpg/image_{i:05d}.jpg" for i in range(1, 13)])
    mat(root / "imagelabels.mat", labels=np.array([[1, 2] * 6], dtype=np.uint8))
    ids = {"trnid": [1, 2, 3, 4, 5, 6], "valid": [7, 8, 9, 10], "tstid": [11, 12]}
    mat(root / "setid.mat", **{name: np.array([v], dtype=np.uint16) for name, v in ids.items()})


def vggface2(root):
    for part, people in (("train", ("n000002", "n000003")), ("test", ("n000001", "n000009"))):
        for person in people:
            images(root, [f"{part}/{person}/{i:04d}_01.jpg" for i in range(1, 6)])
            for i in range(1, 6):  # names repeat between persons, contents must not
                put(root / f"{part}/{person}/{i:04d}_01.jpg", picture(f"{person}{i}"))
    box = 'NAME_ID,X,Y,W,H\n"n000002/0001_01",1,2,5,4\n'
    put(root / "bb_landmark/loose_bb_train.csv", box)
    put(root / "bb_landmark/loose_bb_test.csv", "NAME_ID,X,Y,W,H\n")


EXPRESSIONS = ("Anger", "Disgust", "Fear", "Happiness", "Sadness", "Surprise")


def oulu_casia(root):
    top = root / "OriginalImg" / "NI" / "Strong"
    for person in range(1, 81):
        for expression in EXPRESSIONS:
            put(top / f"P{person:03d}/{expression}/000.jpeg", picture(f"{person}{expression}"))
    put(root / "OriginalImg/VL/Strong/P001/Anger/000.jpeg", picture("visible"))


def moorea(root):
    for year in ("2008", "2009"):
        for pole in (1, 2):
            photo = f"{year}/mcr_lter1_fringingreef_pole{pole}-2_qu1_{year}0415.jpg"
            images(root, [photo], side=40)
            rows = ["# Row; Col; Label"]
            for i, label in enumerate(("CCA", "sand", "Sand", "Acrop", "Off")):
                rows.append(f"{3 * i + 1}; {39 - i}; {label}")
            put(root / f"{photo}.txt", lines(*rows))


def whoi(root):
    for year in ("2006", "2007"):
        for label in ("Akashiwo", "Chaetoceros_pennate"):
            stem = f"{year}/{label}/IFCB1_{year}_158_00003{len(label)}"
            images(root, [f"{stem}_{i:05d}.png" for i in range(4)])


def whoi_packed(root):
    for year in ("2006", "2007"):
        pack_zip(root / f"{year}.zip", root, year)


def huggingface(root):
    for split, count in (("train", 4), ("validation", 2), ("test", 1)):
        rows = [(f"{label}_{i}.png", label) for label in ("cat", "dog") for i in range(count)]
        for name, _ in rows:
            put(root / split / name, picture(split + name))
        with (root / split / "metadata.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("file_name", "label"), *rows])


def webdataset(root):
    for split, numbers in (("train", range(4)), ("val", range(4, 6)), ("test", range(6, 7))):
        for label in (0, 1):
            for i in numbers:
                sample = root / "files" / f"{split}-00000{label}" / f"{label}{i:05d}"
                put(sample.with_suffix(".jpg"), picture(sample.name))
                if label:
                    put(sample.with_suffix(".json"), json.dumps({"label": label}))
                else:
                    put(sample.with_suffix(".cls"), str(label))
    for folder in sorted((root / "files").iterdir()):
        names = sorted(path.name for path in folder.iterdir())
        tar(root / f"{folder.name}.tar", folder, *names)
    shutil.rmtree(root / "files")
    put(root / "classes.txt", lines("cat", "dog"))


def one_tar(name, *names, mode="w:gz"):
    return lambda root: tar(root / name, root, *names, mode=mode)


CUB = "CUB_200_2011"
AIR = "fgvc-aircraft-2013b"
PLANKTON_YEARS = {"years": ("2006", "2007")}
CORAL_YEARS = {"years": ("2008", "2009"), "patch": 16}
CASES = {
    "imagenet": Case(
        imagenet,
        (DOG, CAT),
        {"train": 8, "test": 4},
        image=f"train/{DOG}/{DOG}_1.JPEG",
        lists=("ILSVRC2012_devkit_t12/data/meta.mat",
               "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"),
        pack=imagenet_packed,
        listed=False,
    ),
    "places-205": Case(
        places205,
        ("abbey", "apartment_building/outdoor"),
        {"train": 8, "test": 2},
        image="data/vision/torralba/deeplearning/images256/a/abbey/gsun_0001a.jpg",
        lists=("trainvalsplit_places205/train_places205.csv",),
        pack=places205_packed,
    ),
    "caltech-256": Case(
        caltech256,
        ("001.ak47", "002.american-flag"),
        {"train": 8},
        image="256_ObjectCategories/001.ak47/001_0002.jpg",
        pack=one_tar("256_ObjectCategories.tar", "256_ObjectCategories", mode="w"),
        listed=False,
    ),
    "sun-397": Case(
        sun397,
        ("abbey", "apartment_building/outdoor"),
        {"train": 12},
        image="SUN397/a/abbey/sun_ab0.jpg",
        lists=("SUN397/ClassName.txt",),
        pack=one_tar("SUN397.tar.gz", "SUN397"),
        listed=False,
    ),
    "mit-indoor-67": Case(
        indoor67,
        ("airport_inside", "bakery"),
        {"train": 8, "test": 2},
        image="Images/bakery/bakery_0001_thumb.jpg",
        lists=("TrainImages.txt", "TestImages.txt"),
        pack=one_tar("indoorCVPR_09.tar", "Images", mode="w"),
    ),
    "cub-200-2011": Case(
        cub200,
        BIRDS,
        {"train": 8, "test": 2},
        image=f"{CUB}/images/{BIRDS[0]}/Black_footed_Albatross_0001_796102.jpg",
        lists=tuple(
            f"{CUB}/{name}.txt"
            for name in ("images", "classes", "train_test_split", "image_class_labels",
                         "bounding_boxes")
        ),
        boxes=((1, 2, 6, 6),),
        pack=one_tar("CUB_200_2011.tgz", CUB),
    ),
    "stanford-dogs": Case(
        stanford_dogs,
        (DOG, "n02085782"),
        {"train": 8, "test": 2},
        image=f"Images/{DOG}-Chihuahua/{DOG}_101.jpg",
        lists=("train_list.mat", "test_list.mat", f"Annotation/{DOG}-Chihuahua/{DOG}_101"),
        boxes=((2, 3, 6, 7),),
        pack=stanford_dogs_packed,
    ),
    "stanford-40": Case(
        stanford40,
        ("applauding", "blowing_bubbles"),
        {"train": 8, "test": 2},
        image="JPEGImages/applauding_002.jpg",
        lists=("ImageSplits/actions.txt", "ImageSplits/applauding_test.txt",
               "XMLAnnotations/applauding_001.xml"),
        boxes=((1, 2, 6, 7),),
        pack=stanford40_packed,
    ),
    "fgvc-aircraft": Case(
        aircraft,
        ("707-320", "Boeing 717", "F/A-18"),
        {"train": 9, "val": 6, "test": 3},
        image=f"{AIR}/data/images/1000001.jpg",
        lists=(f"{AIR}/data/variants.txt", f"{AIR}/data/images_variant_val.txt"),
        boxes=((1, 2, 6, 7),),
        pack=one_tar("fgvc-aircraft-2013b.tar.gz", AIR),
    ),
    "flowers-102": Case(
        flowers102,
        ("001", "002"),
        {"train": 6, "val": 4, "test": 2},
        image="jpg/image_00003.jpg",
        lists=("imagelabels.mat", "setid.mat"),
        pack=one_tar("102flowers.tgz", "jpg"),
    ),
    "vggface2": Case(
        vggface2,
        ("n000001", "n000002", "n000003", "n000009"),
        {"train": 10, "test": 10},
        image="train/n000002/0003_01.jpg",
        options={"identities": "all"},
        pack=lambda root: [
            tar(root / f"vggface2_{part}.tar.gz", root, part, mode="w:gz")
            for part in ("train", "test")
        ],
        listed=False,
    ),
    "oulu-casia": Case(
        oulu_casia,
        tuple(f"P{i:03d}" for i in range(1, 81)),
        {"train": 360, "test": 120},
        image="OriginalImg/NI/Strong/P033/Fear/000.jpeg",
        options={"lights": ("Strong",)},
        listed=False,
    ),
    "moorea-corals": Case(
        moorea,
        ("Acrop", "CCA", "Sand"),
        {"train": 16},
        image="2008/mcr_lter1_fringingreef_pole1-2_qu1_20080415.jpg",
        lists=("2008/mcr_lter1_fringingreef_pole1-2_qu1_20080415.jpg.txt",),
        options=CORAL_YEARS,
    ),
    "whoi-plankton": Case(
        whoi,
        ("Akashiwo", "Chaetoceros_pennate"),
        {"train": 16},
        image="2006/Akashiwo/IFCB1_2006_158_000038_00001.png",
        options=PLANKTON_YEARS,
        pack=whoi_packed,
        listed=False,
    ),
    "huggingface": Case(
        huggingface,
        ("cat", "dog"),
        {"train": 8, "val": 4, "test": 2},
        image="train/cat_1.png",
        lists=(),
    ),
    "webdataset": Case(
        webdataset, ("cat", "dog"), {"train": 8, "val": 4, "test": 2}, image="train-000000.tar"
    ),
}  # fmt: skip
INNER = {
    "caltech-256": "256_ObjectCategories",
    "sun-397": "SUN397",
    "cub-200-2011": CUB,
    "fgvc-aircraft": AIR,
}
"""Data sets whose folder a user names, and whose archives have it around everything."""
NAMES = sorted(CASES)


def counted(name):
    """The format, with the counts of the small tree in place of the whole set's."""
    case = CASES[name]
    return replace(
        FORMATS[name], counts=lambda options: Counts(len(case.classes), dict(case.splits))
    )


def root_of(name, folder):
    return folder / INNER[name] if (folder / INNER.get(name, "-")).is_dir() else folder


@pytest.fixture
def opened(tmp_path):
    def open_it(name, folder, cache="cache", form=None, **more):
        given = tuple({**CASES[name].options, **more}.items())
        return open_format(form or counted(name), root_of(name, folder), tmp_path / cache, given)

    return open_it


def built(name, folder):
    folder.mkdir(parents=True, exist_ok=True)
    CASES[name].build(folder)
    return folder


def all_images(dataset):
    return [image for label in dataset.classes for image in dataset.images_of(label)]


# --- the contract -------------------------------------------------------------------------------


def test_every_format_has_a_case_and_a_place_in_the_catalog():
    assert set(CASES) == set(FORMATS) <= set(DATASETS)
    for name, form in FORMATS.items():
        assert form.name == name
        texts = (form.title, form.expected, form.classes, form.images, form.where, form.licence)
        assert all(texts)


@pytest.mark.parametrize("name", NAMES)
def test_it_reads_classes_splits_groups_and_pixels(name, tmp_path, opened):
    case, dataset = CASES[name], opened(name, built(name, tmp_path / "set"))
    found = all_images(dataset)
    assert dataset.name == name
    assert dataset.classes == tuple(sorted(case.classes))
    assert Counter(image.split for image in found) == case.splits
    assert {image.group for image in found} == case.groups
    assert len({image.key for image in found}) == len(found)
    for label in dataset.classes:
        keys = [image.key for image in dataset.images_of(label)]
        assert keys == sorted(keys)
    assert not any(str(tmp_path) in image.key for image in found)
    assert len({image.sha256 for image in found}) == len(found)
    assert dataset.has_test == ("test" in case.splits)
    assert dataset.notes == {}
    shown = list(dataset.read(found[:3], 8))
    assert {pixels.shape for pixels in shown} == {(8, 8, 3)}
    assert dataset.unreadable(dataset.classes[0]) == {}


@pytest.mark.parametrize("name", NAMES)
def test_order_and_fingerprint_stay_when_the_folder_moves(name, tmp_path, opened):
    folder = built(name, tmp_path / "set")
    first = opened(name, folder)
    again = opened(name, folder)  # now from the table in the cache
    assert all_images(again) == all_images(first)
    shutil.move(folder, tmp_path / "moved")
    moved = opened(name, tmp_path / "moved", cache="another cache")
    assert all_images(moved) == all_images(first)
    assert moved.fingerprint == again.fingerprint == first.fingerprint
    pixels = list(moved.read(all_images(moved)[:2], 8))
    assert len(pixels) == 2


@pytest.mark.parametrize("name", [name for name in NAMES if CASES[name].pack])
def test_packed_and_unpacked_are_one_data_set(name, tmp_path, opened):
    unpacked = opened(name, built(name, tmp_path / "set"))
    folder = built(name, tmp_path / "packed")
    CASES[name].pack(folder)
    before = sorted(path for path in folder.rglob("*"))
    assert FORMATS[name].fits(folder)
    packed = opened(name, folder)
    assert all_images(packed) == all_images(unpacked)
    assert packed.fingerprint == unpacked.fingerprint
    last = all_images(packed)[-2:]
    assert (np.stack(list(packed.read(last, 8))) == np.stack(list(unpacked.read(last, 8)))).all()
    assert sorted(path for path in folder.rglob("*")) == before  # nothing was extracted


@pytest.mark.parametrize(
    ("name", "missing"), [(name, file) for name in NAMES for file in CASES[name].lists]
)
def test_a_missing_list_file_says_what_was_expected_and_where_to_get_it(
    name, missing, tmp_path, opened
):
    folder = built(name, tmp_path / "set")
    (folder / missing).unlink()
    with pytest.raises(DataError) as caught:
        opened(name, folder)
    text = str(caught.value)
    assert Path(missing).name in text
    assert FORMATS[name].expected in text
    assert FORMATS[name].where in text
    assert str(tmp_path) in text


@pytest.mark.parametrize("name", NAMES)
def test_a_half_unpacked_set_is_told_unless_partial_says_so(name, tmp_path, opened):
    folder = built(name, tmp_path / "set")
    whole = len(all_images(opened(name, folder)))
    (folder / CASES[name].image).unlink()
    with pytest.raises(DataError) as caught:
        opened(name, folder)
    text = str(caught.value)
    assert "missing" in text or "expected" in text.splitlines()[0]
    assert FORMATS[name].where in text
    assert "partial: true" in text
    dataset = opened(name, folder, partial=True)
    assert len(all_images(dataset)) < whole
    assert ("listed_images_missing" in dataset.notes) == CASES[name].listed or name == "webdataset"


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_count_says_expected_and_found(name, tmp_path, opened):
    folder = built(name, tmp_path / "set")
    wrong = replace(FORMATS[name], counts=lambda options: Counts(1000, {"train": 12345}))
    with pytest.raises(DataError) as caught:
        opened(name, folder, form=wrong)
    first = str(caught.value).splitlines()[0]
    assert f"{len(CASES[name].classes)} classes (expected 1,000)" in first
    assert "train images (expected 12,345)" in first
    assert FORMATS[name].where in str(caught.value)


REAL = {  # Table 1 of SFT; the rest as the authors state; {} where the tree above is whole
    "imagenet": (1000, {"train": 1281167, "test": 50000}),
    "places-205": (205, {"train": 2448873, "test": 20500}),
    "caltech-256": (256, {"train": 29780}),
    "sun-397": (397, {"train": 108754}),
    "mit-indoor-67": (67, {"train": 67 * 80, "test": 67 * 20}),
    "cub-200-2011": (200, {"train": 5994, "test": 5794}),
    "stanford-dogs": (120, {"train": 12000, "test": 8580}),
    "stanford-40": (40, {"train": 4000, "test": 5532}),
    "fgvc-aircraft": (100, {"train": 6667, "test": 3333}),
    "flowers-102": (102, {"train": 1020, "val": 1020, "test": 6149}),
    "vggface2": (9131, {"train": 3141890, "test": 169396}),
    "oulu-casia": (80, {}),
    "moorea-corals": (9, {}),
    "whoi-plankton": (103, {}),
}


def test_every_format_of_a_known_size_has_its_counts_here():
    """Whatever is added to FORMATS is checked against the numbers that its authors state."""
    sized = {name for name, form in FORMATS.items() if form.counts is not None}
    assert sized - {"huggingface", "webdataset"} <= set(REAL)


@pytest.mark.parametrize("name", sorted(REAL))
def test_the_real_counts_are_asserted(name, tmp_path, opened):
    form = FORMATS[name]
    given = {"val_in_train": True} if name == "fgvc-aircraft" else {}
    given |= {"identities": "all"} if name == "vggface2" else {}
    counts = form.counts(form.chosen(given.items()))
    assert (counts.classes, dict(counts.images)) == REAL[name]
    if name in ("oulu-casia", "whoi-plankton"):
        return  # the tree above is whole in their classes; persons and years are looked at below
    with pytest.raises(DataError, match=f"expected {REAL[name][0]:,}"):
        opened(name, built(name, tmp_path / "set"), form=form)


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_root_says_expected_found_and_where_to_get_it(name, tmp_path):
    put(tmp_path / "elsewhere" / "holiday.jpg", picture("x"))
    with pytest.raises(MissingDataError) as caught:
        resolve_root(name, str(tmp_path / "elsewhere"), None)
    text = str(caught.value)
    assert "holiday.jpg" in text
    assert FORMATS[name].expected in text
    assert FORMATS[name].where in text


@pytest.mark.parametrize("name", NAMES)
def test_a_grid_can_name_it(name, tmp_path, monkeypatch):
    monkeypatch.delenv("BENCH_DATA", raising=False)
    folder = built(name, tmp_path / "set")
    options = {**CASES[name].options, "partial": True}
    if name in ("vggface2", "oulu-casia"):
        options["identities"] = "train"
    has_test = "test" in CASES[name].splits and "identities" not in options
    data = DataSpec.model_validate(
        {
            "dataset": name,
            "root": str(folder),
            "options": options,
            "image_size": 8,
            "images_per_class": 1,
            "val_per_class": 1,
            **({} if has_test else {"test_per_class": 1}),
        }
    )
    places = {"data_root": None, "cache_dir": tmp_path / "cache"}
    resolved = resolve(data, 0, **places)
    assert len(resolved.train) == len(resolved.val) == len(resolved.classes)
    loaded = load(resolved, data, **places)
    assert loaded.images.shape == (len(resolved.images), 8, 8, 3)
    assert resolved.wnid_keyed == (name in ("imagenet", "stanford-dogs"))


@pytest.mark.parametrize("name", NAMES)
def test_unknown_options_and_values_are_told_before_the_data_are_looked_for(name, tmp_path):
    data = DataSpec(dataset=name, options={"partail": True})
    with pytest.raises(DataError, match=r"no option 'partail'(.|\n)*partial"):
        resolve(data, 0, data_root=None, cache_dir=tmp_path)
    data = DataSpec(dataset=name, options={"partial": "yes"})
    with pytest.raises(DataError, match=r"'yes' is not allowed(.|\n)*true or false"):
        resolve(data, 0, data_root=None, cache_dir=tmp_path)


# --- what is special ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in NAMES if CASES[name].boxes])
def test_boxes(name, tmp_path):
    folder = root_of(name, built(name, tmp_path / "set"))
    form = FORMATS[name]
    tree = open_tree(folder, tmp_path, folders=form.folders, archives=(), inner=(), hint=form.hint)
    entries = list(form.read(tree, form.chosen(())))
    assert {entry.boxes for entry in entries} == {CASES[name].boxes}
    data = DataSpec(
        dataset=name,
        root=str(folder),
        options={"partial": True},
        views=("whole", "box"),
        image_size=4,
        images_per_class=1,
        val_per_class=1,
    )
    places = {"data_root": None, "cache_dir": tmp_path / "cache"}
    loaded = load(resolve(data, 0, **places), data, **places)
    assert loaded.images.shape[1:] == (8, 4, 3)


def test_imagenet_is_the_same_set_however_it_is_packed(tmp_path, opened):
    plain = built("imagenet", tmp_path / "plain")
    class_tars = built("imagenet", tmp_path / "tars")
    for wnid in (DOG, CAT):
        names = sorted(path.name for path in (class_tars / "train" / wnid).iterdir())
        tar(class_tars / f"train/{wnid}.tar", class_tars / "train" / wnid, *names)
        (class_tars / "train" / wnid).rmdir()
    kaggle = built("imagenet", tmp_path / "kaggle")
    shutil.rmtree(kaggle / "ILSVRC2012_devkit_t12")
    truth = [DOG, CAT, CAT, DOG]
    rows = [f"ILSVRC2012_val_{i:08d},{w} 1 2 3 4 {w} 5 6 7 8" for i, w in enumerate(truth, 1)]
    put(kaggle / "LOC_val_solution.csv", lines("ImageId,PredictionString", *rows))
    (kaggle / "ILSVRC/Data/CLS-LOC").mkdir(parents=True)
    for part in ("train", "val"):
        shutil.move(kaggle / part, kaggle / "ILSVRC/Data/CLS-LOC" / part)
    sorted_ = built("imagenet", tmp_path / "sorted")
    for i, wnid in enumerate(truth, 1):
        (sorted_ / "val" / wnid).mkdir(exist_ok=True)
        name = f"ILSVRC2012_val_{i:08d}.JPEG"
        shutil.move(sorted_ / "val" / name, sorted_ / "val" / wnid / name)
    found = [opened("imagenet", folder) for folder in (plain, class_tars, kaggle, sorted_)]
    assert len({dataset.fingerprint for dataset in found}) == 1
    assert {i.label: i.key for i in all_images(found[0]) if i.split == "test"} == {
        DOG: f"val/{DOG}/ILSVRC2012_val_00000004.JPEG",
        CAT: f"val/{CAT}/ILSVRC2012_val_00000003.JPEG",
    }


def test_options_change_what_is_read(tmp_path, opened):
    def read(name, **options):
        folder = tmp_path / name
        if not folder.exists():
            built(name, folder)
        return opened(name, folder, partial=True, **options)

    assert len(read("caltech-256", clutter=True).classes) == 3
    parted = read("sun-397", partition=2)
    assert Counter(i.split for i in all_images(parted)) == {"train": 4, "test": 4}
    for name in ("fgvc-aircraft", "flowers-102"):
        merged = read(name, val_in_train=True)
        splits = Counter(image.split for image in all_images(merged))
        assert splits["train"] == CASES[name].splits["train"] + CASES[name].splits["val"]
        assert not splits["val"]
    pool = read("vggface2", identities="train")
    assert pool.classes == ("n000002", "n000003")
    assert {(i.split, i.group) for i in all_images(pool)} == {("train", None)}
    assert list(pool.columns.values()) == [{"box": "1 2 5 4"}]
    corals = read("moorea-corals", labels="all", group="photo")
    assert corals.classes == ("Acrop", "CCA", "Off", "Sand")
    assert {i.group for i in all_images(corals)} == {i.key.partition("@")[0] for i in
                                                      all_images(corals)}  # fmt: skip
    samples = read("whoi-plankton", group="sample")
    assert "IFCB1_2006_158_000038" in {i.group for i in all_images(samples)}


def test_oulu_casia_says_light_person_and_expression(tmp_path, opened):
    folder = built("oulu-casia", tmp_path / "set")
    faces = opened("oulu-casia", folder)
    image = faces.images_of("P021")[0]
    assert (image.key, image.split) == ("NI/Strong/P021/Anger/000.jpeg", "train")
    assert faces.columns[image.key] == {
        "group_spectrum": "NI",
        "group_light": "Strong",
        "group_identity": "P021",
        "group_expression": "Anger",
    }
    assert {i.split for i in all_images(faces) if i.label <= "P020"} == {"test"}
    shown = opened("oulu-casia", folder, label="expression", partial=True)
    assert shown.classes == EXPRESSIONS
    assert not {i.group for i in all_images(shown) if i.split == "test"} & {
        i.group for i in all_images(shown) if i.split == "train"
    }
    with pytest.raises(DataError, match=r"480 of 960 sequences are missing|\d+ of \d+ sequences"):
        opened("oulu-casia", folder, lights=("Strong", "Weak"))
    put(folder / "PreProcess Img/NI_Acropped/Strong/P001/Anger/000.jpeg", picture("cropped"))
    with pytest.raises(DataError, match="two versions"):
        opened("oulu-casia", folder)


@pytest.mark.parametrize(
    ("name", "trained"), [("oulu-casia", 60), ("vggface2", 2)], ids=["oulu-casia", "vggface2"]
)
def test_persons_are_identified_on_other_images_and_verified_as_other_persons(
    name, trained, tmp_path
):
    """SFT Table 5: both tests beside each other; a person who is a class is no group."""
    names = CASES[name].classes
    people = names[-trained:] if name == "oulu-casia" else ("n000002", "n000003")
    data = DataSpec.model_validate(
        {
            "dataset": name,
            "root": str(built(name, tmp_path / "set")),
            "options": {**CASES[name].options, "partial": True},
            "classes": {"recipe": "listed", "names": people},
            "val_per_class": 1,
            "test_per_class": 1,
            "test_from": "pool",
        }
    )
    places = {"data_root": None, "cache_dir": tmp_path / "cache"}
    found = resolve(data, 0, **places)
    per_person = 6 if name == "oulu-casia" else 5
    counts = [Counter(image.label for image in part) for part in (found.train, found.test)]
    assert counts == [dict.fromkeys(people, n) for n in (per_person - 2, 1)]
    others = tuple(sorted(set(names) - set(people)))
    spec = RunSpec(
        data=data,
        model=ModelSpec(name="narrow8_32"),
        pattern="R(1-8)",
        evaluate=EvaluateSpec.model_validate({"verification": {"identities": others}}),
    )
    who = resolve_identities(spec, **places)
    assert who.identities == others
    assert len(who.images) == per_person * len(others)
    assert not {i.sha256 for i in who.images} & {i.sha256 for i in found.images}


def test_missing_years_are_told(tmp_path, opened):
    folder = built("whoi-plankton", tmp_path / "plankton")
    with pytest.raises(DataError, match="2008, 2009"):
        opened("whoi-plankton", folder, years=FORMATS["whoi-plankton"].options["years"].default)
    folder = built("moorea-corals", tmp_path / "corals")
    with pytest.raises(DataError, match="year 2010 is missing"):
        opened("moorea-corals", folder, years=("2008", "2009", "2010"))


def test_a_patch_is_cut_around_its_point_and_mirrored_at_the_edge(tmp_path, opened):
    folder = built("moorea-corals", tmp_path / "set")
    corals = opened("moorea-corals", folder)
    (image,) = [i for i in corals.images_of("CCA") if "2008" in i.key and "pole1" in i.key]
    assert image.key.endswith("@0001,0039")
    photo = folder / image.key.partition("@")[0]
    with Pillow.open(photo) as picture_:
        pixels = np.asarray(picture_)
    padded = np.pad(pixels, ((16, 16), (16, 16), (0, 0)), mode="reflect")  # numpy's, as an oracle
    expected = padded[16 + 1 - 8 : 16 + 1 + 8, 16 + 39 - 8 : 16 + 39 + 8]
    (shown,) = corals.read([image], 16)
    assert (shown == expected).all()


def test_a_damaged_photograph_is_unreadable_and_not_a_crash(tmp_path, opened):
    folder = built("moorea-corals", tmp_path / "set")
    photo = folder / CASES["moorea-corals"].image
    photo.write_bytes(photo.read_bytes()[:-900])
    corals = opened("moorea-corals", folder)
    assert len(corals.unreadable("CCA")) == 1
    with pytest.raises(DataError, match="cannot be decoded"):
        list(corals.read(corals.images_of("CCA"), 8))


@pytest.mark.parametrize("kind", ["tar", "tgz", "zip"])
def test_unsafe_and_torn_archives_are_refused(kind, tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    name = {"tar": "256_ObjectCategories.tar", "tgz": "CUB_200_2011.tgz"}.get(kind, "2006.zip")
    data = {"tar": "caltech-256", "tgz": "cub-200-2011"}.get(kind, "whoi-plankton")
    path = folder / name
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("2006/a/IFCB1_1.png", picture("a"))
            archive.writestr("../outside.png", picture("b"))
    else:
        with tarfile.open(path, "w" if kind == "tar" else "w:gz") as archive:
            member = tarfile.TarInfo("../outside.png")
            archive.addfile(member, io.BytesIO())
    with pytest.raises(DataError, match=r"refused: member '\.\./outside\.png'"):
        open_format(FORMATS[data], folder, tmp_path / "cache")
    assert [p.name for p in tmp_path.rglob("outside*")] == []


@pytest.mark.parametrize("name", ["caltech-256", "cub-200-2011", "stanford-40", "imagenet"])
def test_torn_archives_are_told(name, tmp_path, opened):
    folder = built(name, tmp_path / "set")
    CASES[name].pack(folder)
    archive = next(path for path in sorted(folder.iterdir()) if path.is_file())
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    with pytest.raises(DataError, match="cannot be read to its end"):
        opened(name, folder)


@pytest.mark.parametrize(
    ("name", "file", "content", "says"),
    [
        ("stanford-dogs", "train_list.mat", b"not MATLAB", "no MATLAB file"),
        ("stanford-dogs", f"Annotation/{DOG}-Chihuahua/{DOG}_101", "<annotation>", "in XML"),
        ("stanford-40", "XMLAnnotations/applauding_001.xml",
         '<!DOCTYPE a [<!ENTITY x "y">]><annotation>&x;</annotation>', "document type"),
        ("stanford-40", "XMLAnnotations/applauding_001.xml",
         "<annotation><object><bndbox><xmin>a</xmin></bndbox></object></annotation>", "in XML"),
        ("cub-200-2011", f"{CUB}/bounding_boxes.txt", "1 a 2 3 4", "bounding_boxes.txt:1: no box"),
        ("cub-200-2011", f"{CUB}/image_class_labels.txt", "1 1\n1 2", "labels.txt:2: .*twice"),
        ("cub-200-2011", f"{CUB}/images.txt", "1", "images.txt:1: '1' has not 2 fields"),
        ("fgvc-aircraft", f"{AIR}/data/images_variant_val.txt", "1 Zeppelin", "val.txt:1: 'Zep"),
        ("sun-397", "SUN397/ClassName.txt", b"\xff\xfe\x00", "not a UTF-8 text"),
        ("moorea-corals", "2008/mcr_lter1_fringingreef_pole1-2_qu1_20080415.jpg.txt",
         "1; x; Sand", r"jpg\.txt:1: '1; x; Sand' is not <row>"),
        ("imagenet", "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt",
         "2\n1\n9\n", "truth.txt:3: '9' is no ILSVRC2012_ID"),
        ("places-205", "trainvalsplit_places205/val_places205.csv",
         "a/abbey/x.jpg 1", "csv:1: 'a/abbey/x.jpg' has class 1, which is another"),
        ("flowers-102", "setid.mat", b"", "no MATLAB file"),
        ("huggingface", "train/metadata.csv", "file_name,name\na.png,x\n", "csv:2: .*label is mis"),
        ("vggface2", "bb_landmark/loose_bb_train.csv", "NAME_ID,X\nn/1,2\n", "csv:2: no box"),
    ],
)  # fmt: skip
def test_broken_lists_are_errors_with_file_and_line(name, file, content, says, tmp_path, opened):
    folder = built(name, tmp_path / "set")
    put(folder / file, content)
    with pytest.raises(DataError, match=says):
        opened(name, folder)


def test_a_torn_table_in_the_cache_is_made_anew(tmp_path, opened):
    folder = built("cub-200-2011", tmp_path / "set")
    first = all_images(opened("cub-200-2011", folder))
    (stored,) = (tmp_path / "cache" / "index").iterdir()
    for content in (b"", stored.read_bytes()[:300], b"[]", b'{"format": "other"}'):
        stored.write_bytes(content)
        assert all_images(opened("cub-200-2011", folder)) == first


def test_a_file_that_changed_after_indexing_is_an_error(tmp_path, opened):
    folder = built("moorea-corals", tmp_path / "set")
    corals = opened("moorea-corals", folder)
    put(folder / CASES["moorea-corals"].image, picture("other", 40))
    with pytest.raises(DataError, match="is not what it was"):
        list(corals.read(corals.images_of("CCA"), 8))


def test_what_save_to_disk_wrote(tmp_path, opened):
    arrow = pytest.importorskip("pyarrow", reason="Arrow files need pyarrow")
    ipc = pytest.importorskip("pyarrow.ipc")
    names = ["cat", "dog"]
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    kept = {}
    for split, count in (("train", 6), ("test", 2)):
        folder = tmp_path / "set" / split
        put(folder / "dataset_info.json", json.dumps({"features": features}))
        put(folder / "state.json", json.dumps({"_data_files": [{"filename": "data-0.arrow"}]}))
        rows = [{"bytes": picture(f"{split}{i}"), "path": None} for i in range(count)]
        kept |= {f"{split}/{i:08d}": row["bytes"] for i, row in enumerate(rows)}
        table = arrow.table({"image": rows, "label": [i % 2 for i in range(count)]})
        with ipc.new_stream(str(folder / "data-0.arrow"), table.schema) as writer:
            writer.write_table(table, max_chunksize=4)
    put(tmp_path / "set" / "dataset_dict.json", json.dumps({"splits": ["train", "test"]}))
    form = FORMATS["huggingface"]
    dataset = open_format(form, tmp_path / "set", tmp_path / "cache")
    assert dataset.classes == ("cat", "dog")
    assert Counter(i.split for i in all_images(dataset)) == {"train": 6, "test": 2}
    assert {i.key: dataset.files.read(i.key) for i in all_images(dataset)} == kept
    assert len(list(dataset.read(dataset.images_of("dog"), 8))) == 4
    with pytest.raises(DataError, match="no column 'pixels'"):
        open_format(form, tmp_path / "set", tmp_path / "cache", (("image", "pixels"),))
