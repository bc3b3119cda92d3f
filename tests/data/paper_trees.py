"""The papers' data sets as trees of tiny images in their authors' layouts, with all their classes
where a grid needs them, and a few images in each; read with `options: {partial: true}`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from scipy.io import savemat

from bench.data.formats.registry import FORMATS
from bench.data.wordnet.hierarchy import taxonomy

EXPRESSIONS = ("Anger", "Disgust", "Fear", "Happiness", "Sadness", "Surprise")
PARTS = ("head", "torso", "legs", "arm-left", "arm-right", "hand-left", "hand-right")
_NUMBERS = itertools.count()


def image(path: Path) -> None:
    """An image of one pixel, unlike all others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"P6 1 1 255\n" + next(_NUMBERS).to_bytes(3, "big"))


def images(root: Path, paths: Iterable[str]) -> list[str]:
    listed = list(paths)
    for path in listed:
        image(root / path)
    return listed


def text(path: Path, rows: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row}\n" for row in rows))


def cells(names: list[str]) -> object:
    array = np.empty((len(names), 1), dtype=object)
    array[:, 0] = names
    return array


def box_file(path: Path, name: str) -> None:
    sides = "".join(f"<{tag}>1</{tag}>" for tag in ("xmin", "ymin", "xmax", "ymax"))
    text(
        path,
        [
            f"<annotation><filename>{name}</filename><object><name>x</name>"
            f"<bndbox>{sides}</bndbox></object></annotation>"
        ],
    )


def imagenet(root: Path, wnids: Iterable[str], train: int, val: int = 1) -> None:
    for wnid in wnids:
        images(root, (f"train/{wnid}/{wnid}_{n}.JPEG" for n in range(train)))
        images(root, (f"val/{wnid}/ILSVRC2012_val_{wnid[1:]}{n}.JPEG" for n in range(val)))


def places205(root: Path) -> None:
    labels = [f"a/scene{n}" for n in range(205)]
    for part, count in (("train", 2), ("val", 1)):
        rows = [
            f"{label}/gsun_{part}{n}.jpg {number}"
            for number, label in enumerate(labels)
            for n in range(count)
        ]
        folder = root / "data/vision/torralba/deeplearning/images256"
        images(folder, (row.split()[0] for row in rows))
        text(root / f"trainvalsplit_places205/{part}_places205.csv", rows)


def caltech256(root: Path) -> None:
    for number, name in ((1, "ak47"), (2, "american-flag"), (3, "backpack")):
        stem = f"{number:03d}.{name}/{number:03d}"
        images(root, (f"{stem}_{n:04d}.jpg" for n in range(1, 83)))


def sun397(root: Path) -> None:
    labels = ("a/abbey", "a/airport_terminal", "b/bakery/shop")
    text(root / "ClassName.txt", (f"/{label}" for label in labels))
    for label in labels:
        images(root, (f"{label}/sun_{label[2:4]}{n}.jpg" for n in range(99)))


def indoor67(root: Path) -> None:
    for part, count in (("Train", 80), ("Test", 20)):
        paths = [
            f"{label}/{label}_{part}{n}.jpg"
            for label in ("airport_inside", "bakery", "bar")
            for n in range(count)
        ]
        text(root / f"{part}Images.txt", images(root / "Images", paths) and paths)


def cub200(root: Path) -> None:
    rows: dict[str, list[str]] = {}
    birds = [f"{n:03d}.Bird_{n}" for n in range(1, 4)]
    number = 0
    for label, bird in enumerate(birds, start=1):
        for n in range(60):
            number += 1
            path = f"{bird}/Bird_{number:04d}.jpg"
            image(root / "images" / path)
            rows.setdefault("images", []).append(f"{number} {path}")
            rows.setdefault("image_class_labels", []).append(f"{number} {label}")
            rows.setdefault("train_test_split", []).append(f"{number} {int(n < 30)}")
            rows.setdefault("bounding_boxes", []).append(f"{number} 0 0 1 1")
    rows["classes"] = [f"{n} {bird}" for n, bird in enumerate(birds, start=1)]
    for name, listed in rows.items():
        text(root / f"{name}.txt", listed)


def stanford_dogs(root: Path) -> None:
    lists: dict[str, list[tuple[str, int]]] = {"train": [], "test": []}
    for label, wnid in enumerate(taxonomy().under("dog.n.01"), start=1):
        for n in range(8):
            stem = f"{wnid}-dog/{wnid}_{n}"
            image(root / f"Images/{stem}.jpg")
            box_file(root / "Annotation" / stem, stem)
            lists["train" if n < 7 else "test"].append((stem, label))
    for part, listed in lists.items():
        stems = [stem for stem, _ in listed]
        savemat(
            root / f"{part}_list.mat",
            {
                "file_list": cells([f"{stem}.jpg" for stem in stems]),
                "annotation_list": cells(stems),
                "labels": np.array([[label] for _, label in listed], dtype=np.uint8),
            },
        )


def stanford40(root: Path) -> None:
    actions = [f"action_{n}" for n in range(40)]
    text(root / "ImageSplits/actions.txt", ["action_name number", *(f"{a}\t2" for a in actions)])
    every = []
    for action in actions:
        names = [f"{action}_{n:03d}.jpg" for n in range(3)]
        every += images(root, (f"JPEGImages/{name}" for name in names))
        text(root / f"ImageSplits/{action}_train.txt", names[:2])
        text(root / f"ImageSplits/{action}_test.txt", names[2:])
        for name in names:
            box_file(root / f"XMLAnnotations/{name[:-4]}.xml", name)
    heading = ",".join(["path", *(f"box_{part}" for part in PARTS)])
    text(root / "parts.csv", [heading, *(path + ",0 0 1 1" * len(PARTS) for path in every)])


def aircraft(root: Path) -> None:
    top = root / "data"
    variants = [f"Variant {n}" for n in range(100)]
    text(top / "variants.txt", variants)
    rows: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for number, variant in enumerate(variants):
        for n, part in enumerate(rows):
            name = f"{1000000 + 10 * number + n}"
            image(top / f"images/{name}.jpg")
            rows[part].append(f"{name} {variant}")
    for part, listed in rows.items():
        text(top / f"images_variant_{part}.txt", listed)
    names = (row.split()[0] for listed in rows.values() for row in listed)
    text(top / "images_box.txt", (f"{name} 1 1 1 1" for name in names))


def flowers102(root: Path) -> None:
    count = 4 * 102
    images(root, (f"jpg/image_{n:05d}.jpg" for n in range(1, count + 1)))
    numbers = np.arange(1, count + 1, dtype=np.uint16)
    savemat(root / "imagelabels.mat", {"labels": (1 + (numbers - 1) % 102)[None]})
    parts = np.split(numbers, [204, 306])
    splits = dict(zip(("trnid", "valid", "tstid"), (part[None] for part in parts), strict=True))
    savemat(root / "setid.mat", splits)


def vggface2(root: Path) -> None:
    for part, people in (("train", range(2, 8)), ("test", range(20, 22))):
        for person in people:
            images(root, (f"{part}/n{person:06d}/{n:04d}_01.jpg" for n in range(14)))


def oulu_casia(root: Path) -> None:
    lights = ("Strong", "Weak", "Dark")
    for person, light, expression in itertools.product(range(1, 81), lights, EXPRESSIONS):
        folder = f"OriginalImg/NI/{light}/P{person:03d}/{expression}"
        images(root, (f"{folder}/{n:03d}.jpeg" for n in range(2)))


def moorea(root: Path) -> None:
    for number, label in enumerate(("CCA", "Sand", "Turf", "Porit")):
        points = 810 if label != "Porit" else 5  # too few: the grid leaves it out
        photo = f"{2008 + number % 3}/mcr_lter1_fringingreef_pole{number}.jpg"
        image(root / photo)
        rows = (f"{n // 40}; {n % 40}; {label}" for n in range(points))
        text(root / f"{photo}.txt", ["# Row; Col; Label", *rows])


def whoi_plankton(root: Path) -> None:
    for label, count in (("Akashiwo", 690), ("Chaetoceros", 690), ("Ciliate", 3)):
        images(root, (f"2006/{label}/IFCB1_2006_158_000036_{n:05d}.png" for n in range(count)))


def all_of_imagenet(root: Path) -> None:
    imagenet(root, taxonomy().classes, train=2)


def ten_classes_of_imagenet(root: Path) -> None:
    imagenet(root, taxonomy().classes[:10], train=142, val=2)


TREES: dict[str, dict[str, Callable[[Path], None]]] = {
    "soft-fine-tuning": {
        "imagenet": all_of_imagenet,
        "stanford-40": stanford40,
        "stanford-dogs": stanford_dogs,
        "fgvc-aircraft": aircraft,
        "vggface2": vggface2,
        "oulu-casia": oulu_casia,
    },
    "selective-joint": {
        "imagenet": all_of_imagenet,
        "places-205": places205,
        "stanford-dogs": stanford_dogs,
        "flowers-102": flowers102,
        "caltech-256": caltech256,
        "mit-indoor-67": indoor67,
    },
    "multifaceted": {"imagenet": all_of_imagenet},
    "best-practices": {
        "imagenet": ten_classes_of_imagenet,
        "caltech-256": caltech256,
        "sun-397": sun397,
        "mit-indoor-67": indoor67,
        "cub-200-2011": cub200,
        "moorea-corals": moorea,
        "whoi-plankton": whoi_plankton,
    },
}
"""The data sets of each paper's grid."""


def build(name: str, root: Path) -> Path:
    """All data sets of a paper's grid, each in a folder of its usual name; the data root."""
    for dataset, make in TREES[name].items():
        make(root / FORMATS[dataset].guesses[0])
    return root
