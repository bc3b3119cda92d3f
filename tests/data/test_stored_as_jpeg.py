"""Decoded images kept as JPEG: Pillow's own pixels, built and resumed like pixels, and smaller."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from bench.core.errors import DataError, GridError
from bench.core.paths import Places
from bench.data import cache, decoding
from bench.data.cache import cached_images, cached_jpegs
from bench.data.catalog import Loaded, load, resolve
from bench.data.dataset import Image, UInt8
from bench.data.files.jpeg import QUALITY
from bench.exports.model_folder import read_model, write_model
from bench.exports.network import exported_network
from bench.exports.predict import _pixels, scores
from bench.grid.expand import load_grid
from bench.planning.workspace import open_session
from bench.results.mistakes import read_predictions
from bench.runs.build import Context
from bench.runs.execute import execute_batch
from bench.specs.data import DataSpec
from bench.specs.run import RunSpec, run_id
from tests.data.test_boxes import animals, selection
from tests.runs.test_borrowed_runs import MODEL, PARENTS, RECIPE, TARGET, Bench, tuned

__all__ = ["animals"]
SIDE = 48
COUNT = 9


def picture(number: int) -> UInt8:
    """Some shape and some noise, another one for each number."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[:SIDE, :SIDE]
    waves = np.stack([np.sin(x / (number + k + 2)) * np.cos(y / 7) for k in range(3)], axis=2)
    return np.clip(128 + 90 * waves + rng.normal(0, 6, waves.shape), 0, 255).astype(np.uint8)


def pillows(pixels: UInt8) -> bytes:
    """What Pillow makes of pixels with the quality that is documented."""
    file = io.BytesIO()
    Pillow.fromarray(pixels).save(file, format="JPEG", quality=95)
    return file.getvalue()


def pillows_pixels(pixels: UInt8) -> UInt8:
    return np.array(Pillow.open(io.BytesIO(pillows(pixels))))


class Reader:
    """Counts what is decoded; ends like a killed process after so many images."""

    def __init__(self, most: int = 10**6) -> None:
        self.decoded: list[int] = []
        self.most = most

    def __call__(self, images: Sequence[Image], size: int) -> Iterator[UInt8]:
        for image in images:
            if len(self.decoded) == self.most:
                raise KeyboardInterrupt
            self.decoded.append(int(image.key))
            yield picture(int(image.key))


def pixels_of(folder: Path, read: Reader, numbers: Sequence[int] = range(COUNT)) -> UInt8:
    images = [Image(str(n), "a", "train", f"{n:064x}") for n in numbers]
    name = "-".join(map(str, numbers))
    each = cached_jpegs(images, SIDE, read, cache_dir=folder, fingerprint=name, version="v")
    return np.stack(list(each(range(len(images)))))


EXPECTED = np.stack([pillows_pixels(picture(n)) for n in range(COUNT)])


def test_pixels_are_those_of_pillow_and_the_file_is_its_bytes(tmp_path: Path) -> None:
    assert QUALITY == 95
    np.testing.assert_array_equal(pixels_of(tmp_path, Reader()), EXPECTED)
    again = Reader()
    np.testing.assert_array_equal(pixels_of(tmp_path, again), EXPECTED)
    assert again.decoded == []
    (folder,) = tmp_path.iterdir()
    assert folder.name == f"0-1-2-3-4-5-6-7-8-{SIDE}-jpeg95"
    bytes_of_all = sum(len(pillows(picture(n))) for n in range(COUNT))
    assert (folder / "images.bin").stat().st_size == bytes_of_all  # the room is cut to size
    assert bytes_of_all < COUNT * SIDE * SIDE * 3 / 2
    assert (folder / "images.bin").stat().st_blocks * 512 < bytes_of_all + 65536
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["format"] == "bench decoded images 1, JPEG 95"


def test_another_selection_copies_the_bytes_and_pixels_are_kept_apart(tmp_path: Path) -> None:
    pixels_of(tmp_path, Reader(), [1, 2])
    images = [Image(str(n), "a", "train", f"{n:064x}") for n in (1, 2)]
    raw = cached_images(images, SIDE, Reader(), cache_dir=tmp_path, fingerprint="1-2", version="v")
    np.testing.assert_array_equal(raw, [picture(1), picture(2)])
    read = Reader()
    found = pixels_of(tmp_path, read, [3, 2, 1])
    assert set(read.decoded) == {3}
    np.testing.assert_array_equal(found, EXPECTED[[3, 2, 1]])


def test_a_build_that_was_killed_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "PART_BYTES", 2 * SIDE * SIDE * 3)
    monkeypatch.setattr(cache, "_SAMPLED_ROWS", 1)  # row 0, decoded once more
    with pytest.raises(KeyboardInterrupt):
        pixels_of(tmp_path, Reader(most=6))
    (parts,) = tmp_path.glob(".parts-*")
    assert sorted(path.name for path in parts.glob("part-*.npy")) == [
        "part-00000.npy",
        "part-00001.npy",
    ]
    images = parts / "entry" / "images.bin"
    with images.open("rb+") as file:  # the first part is torn, such as by a loss of power
        file.seek(5)
        file.write(b"torn")
    read = Reader()
    np.testing.assert_array_equal(pixels_of(tmp_path, read), EXPECTED)
    assert sorted(read.decoded) == [0, 1, 4, 5, 6, 7, 8]
    assert [path.name[0] for path in tmp_path.iterdir()] == ["0"]


BUILDER = """
import sys, time
from pathlib import Path
import numpy as np
from bench.data import cache, decoding
from bench.data.cache import cached_jpegs
from bench.data.dataset import Image

decoding.PART_BYTES, cache._SAMPLED_ROWS = 12, 1  # a part for each image
folder, me = Path(sys.argv[1]), sys.argv[2]
images = [Image(str(n), "a", "train", f"{n:064x}") for n in range(40)]

def read(images, size):
    for image in images:
        time.sleep(0.01)
        (folder / f"decoded {image.key} {me}").touch()
        yield np.full((size, size, 3), int(image.key), dtype=np.uint8)

(folder / f"began {me}").touch()
while len(list(folder.glob("began *"))) < 2:
    time.sleep(0.01)
each = cached_jpegs(images, 2, read, cache_dir=folder / "cache", fingerprint="f", version="v")
print(*[pixels[0, 0, 0] for pixels in each(range(40))])
"""


def test_two_processes_build_one_entry(tmp_path: Path) -> None:
    command = [sys.executable, "-c", BUILDER, str(tmp_path)]
    workers = [
        subprocess.Popen([*command, name], stdout=subprocess.PIPE, text=True) for name in "ab"
    ]
    answers = [worker.communicate(timeout=120)[0] for worker in workers]
    expected = [pillows_pixels(np.full((2, 2, 3), n, np.uint8))[0, 0, 0] for n in range(40)]
    assert [answer.split() for answer in answers] == [[str(value) for value in expected]] * 2
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["f-2-jpeg95"]
    decoded = sorted(path.name.split()[1:] for path in tmp_path.glob("decoded *"))
    assert {who for _, who in decoded} == {"a", "b"}
    assert len([image for image, _ in decoded if image != "0"]) == 39  # 0 is sampled as well


@pytest.mark.parametrize("name", ["images.bin", "places.npy", "content.npy", "crc.npy"])
@pytest.mark.parametrize("damage", ["missing", "empty", "torn", "foreign"])
def test_a_damaged_entry_is_made_anew(tmp_path: Path, name: str, damage: str) -> None:
    pixels_of(tmp_path, Reader())
    (folder,) = tmp_path.iterdir()
    content = (folder / name).read_bytes()
    (folder / name).unlink()
    if damage != "missing":
        damaged = {"empty": b"", "torn": content[:-3], "foreign": b"{}" * 80}[damage]
        (folder / name).write_bytes(damaged)
    np.testing.assert_array_equal(pixels_of(tmp_path, Reader()), EXPECTED)
    assert list(tmp_path.iterdir()) == [folder]


def test_an_image_that_is_damaged_while_it_is_in_use_is_named(tmp_path: Path) -> None:
    images = [Image(f"cat/{n}.png", "a", "train", f"{n:064x}") for n in range(3)]

    def read(wanted: Sequence[Image], size: int) -> Iterator[UInt8]:
        return (picture(int(image.sha256, 16)) for image in wanted)

    each = cached_jpegs(images, SIDE, read, cache_dir=tmp_path, fingerprint="f", version="v")
    (folder,) = tmp_path.iterdir()
    with (folder / "images.bin").open("rb+") as file:
        file.seek(-20, os.SEEK_END)
        file.write(b"\0\0")
    np.testing.assert_array_equal(next(each([1])), EXPECTED[1])
    with pytest.raises(DataError) as caught:
        list(each([2]))
    assert caught.value.message == "image 'cat/2.png' was damaged in the cache"
    assert caught.value.place == str(folder)


def test_a_disk_that_is_too_small_is_not_filled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = cache.shutil.disk_usage(tmp_path)
    little = usage._replace(free=4000)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: little)
    wanted = round(1.1 * sum(len(pillows(picture(n))) for n in range(COUNT)))
    with pytest.raises(DataError) as caught:
        pixels_of(tmp_path, Reader())
    needed = f"{wanted / 2**20:,.1f} MiB as JPEG"
    assert caught.value.message == f"the decoded images take {needed}, and 0.0 MiB are free"
    assert "stored_as" not in str(caught.value)
    images = [Image("0", "a", "train", f"{0:064x}")]
    places = {"cache_dir": tmp_path, "fingerprint": "f", "version": "v"}
    with pytest.raises(DataError, match=r"images of 'photos' take 0\.0 MiB, and") as caught:
        cached_images(images, SIDE, Reader(), **places, name="photos")
    assert caught.value.hint is not None
    assert caught.value.hint.startswith(
        "free some space, choose another --results folder, give this selection (under target:, or "
        "under sources: where it is a source or borrowed) stored_as: jpeg (about a tenth of the "
        "room, pixels differ), a smaller image_size or fewer images_per_class, or set"
    )
    assert list(tmp_path.iterdir()) == []


def test_the_data_set_whose_images_have_no_room_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Be it the target's, the source's or what is borrowed: a grid has several."""
    little = cache.shutil.disk_usage(tmp_path)._replace(free=4000)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: little)
    data = DataSpec(dataset="digits", test_per_class=5)
    places: Places = {"data_root": None, "cache_dir": tmp_path}
    with pytest.raises(DataError, match="the decoded images of 'digits' take"):
        load(resolve(data, 0, **places), data, **places)


@pytest.mark.parametrize("views", [(), ("whole", "head", "feet")])
def test_a_selection_has_the_same_pixels_from_the_cache_and_on_demand(
    animals: Path, tmp_path: Path, views: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(how: str, stored_as: str) -> Loaded:
        monkeypatch.setenv("BENCH_DECODE", how)
        data = selection(animals, views=views, stored_as=stored_as)
        places = {"data_root": None, "cache_dir": tmp_path / how}
        return load(resolve(data, 0, **places), data, **places)  # type: ignore[arg-type]

    raw, once, always = loaded("once", "raw"), loaded("once", "jpeg"), loaded("always", "jpeg")
    side = raw.images.shape[2]
    each = np.asarray(raw.images).reshape(-1, side, side, 3)
    expected = np.stack([pillows_pixels(one) for one in each]).reshape(raw.images.shape)
    assert not np.array_equal(expected, raw.images)
    np.testing.assert_array_equal(np.asarray(once.images), expected)
    np.testing.assert_array_equal(np.asarray(always.images), expected)
    np.testing.assert_array_equal(once.images[np.array([5, 0])], expected[[5, 0]])
    assert len(list(tmp_path.glob("once/**/images.bin"))) == 1
    assert list(tmp_path.glob("always/**/images.*")) == []


# --- runs ----------------------------------------------------------------------------------------


def as_jpeg(spec: RunSpec) -> RunSpec:
    borrow = tuple(
        one.model_copy(update={"data": one.data.model_copy(update={"stored_as": "jpeg"})})
        for one in spec.borrow
    )
    data = spec.data.model_copy(update={"stored_as": "jpeg"})
    return spec.model_copy(update={"data": data, "borrow": borrow})


@pytest.mark.parametrize(
    "spec",
    [
        RunSpec(data=TARGET, model=MODEL, pattern="R(1-8)", train=RECIPE),
        tuned("joint", borrow=(PARENTS,)),
        tuned("probe", pattern="F(1-7)R(8)"),
    ],
    ids=["plain", "joint", "probe"],
)
def test_a_run_trains_with_it_and_is_another_run(spec: RunSpec, tmp_path: Path) -> None:
    bench, jpeg = Bench(tmp_path), as_jpeg(spec)
    for parent in reversed(list(spec.ancestors())):
        bench.run(parent)
    key = bench.context.fingerprint
    assert run_id(jpeg, key) != run_id(spec, key)
    assert "stored_as" not in spec.data.identity()
    assert jpeg.data.identity() == {**spec.data.identity(), "stored_as": "jpeg"}
    rows = [bench.record(one)["row"] for one in (spec, jpeg)]
    assert [row["status"] for row in rows] == ["done", "done"]
    assert rows[0]["test_loss"] != rows[1]["test_loss"]
    assert rows[0]["test_loss"] == pytest.approx(rows[1]["test_loss"], rel=0.5)
    assert list((tmp_path / "cache").glob("*-jpeg95/images.bin"))


GRID = """\
defaults:
  target:
    {{dataset: folder, root: {root}, image_size: 32, resize: 36, stored_as: {stored_as},
      val_from: budget, test_per_class: 0.25}}
  model: narrow8_32
  pattern: scratch
  train: {{epochs: 1, batch_size: 8}}
experiments:
  a: {{include: [{{source: self, pattern: tune}}]}}
"""


def test_an_exported_model_sees_images_as_its_run_did(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    for name, colour in (("blue", (30, 60, 200)), ("red", (200, 80, 20))):
        (tmp_path / "data" / name).mkdir(parents=True)
        for n in range(12):
            pixels = np.clip(rng.normal(colour, 60, (50, 40, 3)), 0, 255).astype(np.uint8)
            Pillow.fromarray(pixels).save(tmp_path / "data" / name / f"{n}.png")
    text = GRID.format(root=tmp_path / "data", stored_as="jpeg")
    (tmp_path / "grid.yaml").write_text(text)
    session = open_session(tmp_path / "grid.yaml", results=tmp_path / "results")
    context = Context(results=str(tmp_path / "results"), device="cpu")
    runs = list(session.plan.runs.values())
    assert [run.spec.data.stored_as for run in runs] == ["jpeg"] * 3  # the source has it too
    for run in runs:
        execute_batch(
            [(run.id, run.spec)], context, report=lambda _: None, should_stop=lambda: False
        )
    folder = session.store.folder(runs[-1].id, runs[-1].spec)
    write_model(exported_network(folder), tmp_path / "m", runs[-1].id, "")
    model, stored = read_model(tmp_path / "m"), read_predictions(folder)
    assert model.stored_as == "jpeg"
    seen = np.stack([_pixels(tmp_path / "data" / key, model) for key in stored.images])
    np.testing.assert_allclose(scores(model, seen), stored.logits, rtol=0, atol=1e-5)


def test_an_unknown_value_is_named_with_the_line_and_the_choices(tmp_path: Path) -> None:
    grid = tmp_path / "grid.yaml"
    grid.write_text(GRID.format(root=tmp_path, stored_as="png"))
    with pytest.raises(GridError) as caught:
        load_grid(grid)
    assert str(caught.value) == (
        f"{grid}:3: target.stored_as is 'png': must be 'raw' or 'jpeg' (experiment a)\n"
        "  write jpeg, raw"
    )


def test_its_default_is_what_was_done_before() -> None:
    assert DataSpec(dataset="digits").quiet_fields() >= {"stored_as"}
