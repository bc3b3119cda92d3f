"""Images, folders and archives as they really come: read, or refused with a way out."""

import csv
import gzip
import hashlib
import io
import os
import struct
import tarfile
import tempfile
import unicodedata
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from PIL import PngImagePlugin
from typer.testing import CliRunner

from bench.commands.app import app
from bench.core.errors import DataError
from bench.data.catalog import load, open_dataset, resolve
from bench.data.files import archive, mount
from bench.data.files.decode import Reading, UnreadableError, decode
from bench.data.inspection.check import check
from bench.data.layout import split_meant
from bench.data.names import look
from bench.specs.data import DataSpec

SIDE = 24


def picture(label, index):
    """A class has a colour; an image is that colour and noise."""
    seeds = [int.from_bytes(hashlib.sha256(str(t).encode()).digest()[:6]) for t in (label, index)]
    base = np.random.default_rng(seeds[0]).integers(40, 215, 3)
    noise = np.random.default_rng(seeds).normal(0, 35, (SIDE, SIDE, 3))
    return Pillow.fromarray(np.clip(base + noise, 0, 255).astype(np.uint8))


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def folder(root, counts, suffix="png", **options):
    for label, count in counts.items():
        (root / label).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            picture(label, index).save(root / label / f"{index:03d}.{suffix}", **options)
    return root


@pytest.fixture
def two(tmp_path):
    return folder(tmp_path / "set", {"cat": 14, "dog": 14})


class Here:
    def __init__(self, tmp_path):
        self.places = {"data_root": None, "cache_dir": tmp_path / "results" / "cache"}
        self.results = tmp_path / "results"

    def open(self, root, name="folder", **options):
        return open_dataset(name, str(root), **self.places, options=tuple(options.items()))

    def check(self, root, name="folder", **options):
        return check(name, root, **self.places, options=tuple(options.items()))

    def command(self, *arguments):
        words = ["data", "check", *map(str, arguments), "--results", str(self.results)]
        result = CliRunner().invoke(app, words)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout


@pytest.fixture
def here(tmp_path):
    return Here(tmp_path)


# --- what is skipped ---


@pytest.mark.parametrize("suffix", ["jp2", "jpe", "avif", "mpo", "tga", "ppm", "webp", "tiff"])
def test_a_class_in_any_format_of_pillow_is_a_class(suffix, two, here):
    folder(two, {"owl": 14}, suffix)
    dataset = here.open(two)
    assert dataset.classes == ("cat", "dog", "owl")
    assert len(dataset.images_of("owl")) == 14
    assert dataset.unreadable("owl") == {}


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "JPEG2000", "AVIF"])
@pytest.mark.parametrize("suffix", ["", ".data"])
def test_images_are_known_by_their_content(kind, suffix, two, here):
    (two / "owl").mkdir()
    for index in range(3):
        content = encoded(picture("owl", index), kind)
        (two / "owl" / f"{index}{suffix}").write_bytes(content)
    (two / "owl" / "notes.txt").write_text("Beagles and BMWs, P5 and II*")
    dataset = here.open(two)
    assert len(dataset.images_of("owl")) == 3
    assert dataset.notes == {"files_passed_over": "1 .txt"}


def test_a_class_that_vanishes_is_an_error_unless_allowed(two, here):
    (two / "owl").mkdir()
    (two / "owl" / "a.mp4").write_bytes(b"a film")
    (two / "emu").mkdir()
    (two / "__MACOSX" / "cat").mkdir(parents=True)
    (two / "__MACOSX" / "cat" / "._0.png").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        here.open(two)
    assert str(caught.value).startswith(
        f"{two}: 2 folders have no images and would be no classes: 'owl' (1 .mp4); 'emu' (empty)"
    )
    assert "options: {without_empty: true} leaves such folders out" in str(caught.value)
    dataset = here.open(two, without_empty=True)
    assert dataset.classes == ("cat", "dog")
    assert dataset.notes == {"files_passed_over": "1 .mp4"}


def test_what_is_passed_over_is_in_what_a_record_keeps(two, here):
    for index in range(3):
        (two / "cat" / f"{index}.xml").write_text("a box")
    (two / "README").write_text("mine")
    data = DataSpec(dataset="folder", root=str(two), images_per_class=2, test_per_class=2)
    notes = resolve(data, 0, **here.places).notes
    assert notes == {"files_passed_over": "3 .xml, 1 without a suffix"}
    assert "note: files were passed over (3 .xml, 1 without a suffix)" in "\n".join(
        here.check(two).lines()
    )


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (
            "p.jpg",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 43000\n",
            "a Git LFS pointer, not the file: git lfs pull",
        ),
        (".p.jpg.icloud", b"bplist00\xd2\x01\x02", "a placeholder of iCloud, not the file"),
        ("p.jpg", bytes(130), "a placeholder of OneDrive or a torn copy"),
        ("p.jpg", b"/annex/objects/SHA256E-s1--0.jpg\n", "git annex get"),
        ("p.jpg", b"", "the file is empty"),
        ("p.jpg", b"<html>", "it begins with b'<html>'"),
    ],
)
def test_placeholders_have_a_sentence_of_their_own(name, content, says, two, here):
    (two / "dog" / name).write_bytes(content)
    report = here.check(two)
    assert says in report.unreadable[f"dog/{name}"]
    assert says in str(report.problems[0])
    data = DataSpec(
        dataset="folder", root=str(two), images_per_class=None, val_per_class=1, test_per_class=2
    )
    with pytest.raises(DataError) as caught:
        load(resolve(data, 0, **here.places), data, **here.places)
    assert says in str(caught.value)


# --- names that look alike ---


ALIKE = {
    "space": ("cat", "cat "),
    "case": ("Cat", "cat"),
    "unicode": (unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é")),
    "invisible": ("cat", "cat\u200b"),
    "inner space": ("a cat", "a\u00a0cat"),
}


def manifest(root, rows, columns="path,label,group"):
    root.mkdir(parents=True, exist_ok=True)
    for index, _ in enumerate(rows):
        picture(index, 0).save(root / f"{index}.png")
    lines = [columns, *(f"{index}.png,{','.join(row)}" for index, row in enumerate(rows))]
    (root / "manifest.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root / "manifest.csv"


@pytest.mark.parametrize("kind", ALIKE)
@pytest.mark.parametrize("where", ["class", "group"])
def test_names_that_look_alike_are_an_error_with_their_bytes(kind, where, tmp_path, here):
    one, other = ALIKE[kind]
    rows = [
        ([one, other][i % 3 == 0], f"g{i}")
        if where == "class"
        else ("ab"[i % 2], [one, other][i % 3 == 0])
        for i in range(12)
    ]
    rows += [("dog", "x"), ("cow", "y")]
    table = manifest(tmp_path / "set", rows)
    with pytest.raises(DataError) as caught:
        here.open(table, "manifest")
    for name in (one, other):
        assert f"{name!r} ({name.encode()!r})" in str(caught.value)
    assert "{merge_names: true}" in str(caught.value)
    merged = here.open(table, "manifest", merge_names=True)
    (line,) = merged.notes["merged_names"]
    assert repr(one) in line
    images = [image for label in merged.classes for image in merged.images_of(label)]
    names = {image.label if where == "class" else image.group for image in images}
    assert one in names
    assert other not in names
    apart = here.open(table, "manifest", distinct_names=True)
    images = [image for label in apart.classes for image in apart.images_of(label)]
    assert {one, other} <= {image.label if where == "class" else image.group for image in images}
    assert apart.notes == {}


def test_folders_that_look_alike_are_an_error_in_any_split(tmp_path, here):
    for split, labels in (("train", ("cat", "dog")), ("test", ("Cat", "dog"))):
        folder(tmp_path / "set" / split, dict.fromkeys(labels, 3))
    with pytest.raises(DataError, match=r"classes 'Cat' \(b'Cat'\) and 'cat' \(b'cat'\)"):
        here.open(tmp_path / "set")
    assert here.open(tmp_path / "set", merge_names=True).classes == ("Cat", "dog")


NAMES = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12),
    min_size=2,
    max_size=4,
    unique_by=look,
)


@settings(max_examples=60, deadline=None)
@given(NAMES)
def test_class_names_of_any_text_go_through_lists_and_folders(names):
    with tempfile.TemporaryDirectory() as place:
        here, root = Here(Path(place)), Path(place) / "set"
        rows = [("path", "label"), *((f"{i}.png", name) for i, name in enumerate(names))]
        root.mkdir()
        for i in range(len(names)):
            picture(i, 0).save(root / f"{i}.png")
        with (root / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
        if any(set(name) & set("\n\0") for name in names):
            with pytest.raises(DataError, match=r"manifest\.csv:\d+: label|no CSV table"):
                here.open(root, "manifest")
        else:
            assert here.open(root, "manifest").classes == tuple(sorted(names))
        possible = [not set(name) & set("/\n\0") and name[0] != "." for name in names]
        if all(possible) and not any(map(split_meant, names)):
            for i, name in enumerate(names):
                (Path(place) / "folders" / name).mkdir(parents=True)
                picture(i, 0).save(Path(place) / "folders" / name / "0.png")
            assert here.open(Path(place) / "folders").classes == tuple(sorted(names))


# --- sound images ---


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
@pytest.mark.parametrize(
    "block", [b"Exif\0\0\0\x08\0\x02\x01\x12\0\x03", b"b'Exif\\x00\\x00MM", b"Exif\0\0II*\0\xff"]
)
def test_malformed_exif_is_not_the_image(kind, block):
    image = picture("cat", 0)
    options = {"lossless": True} if kind == "WEBP" else {}
    plain, marked = encoded(image, kind, **options), encoded(image, kind, exif=block, **options)
    assert (decode(marked, SIDE) == decode(plain, SIDE)).all()


@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_turns_as_pillow_does(turn):
    from PIL import ImageOps

    exif = Pillow.Exif()
    exif[0x0112] = turn
    data = encoded(picture("cat", 1), exif=exif)
    upright = ImageOps.exif_transpose(Pillow.open(io.BytesIO(data))).convert("RGB")
    assert (decode(data, SIDE) == np.asarray(upright)).all()


def test_what_stands_beside_the_pixels_of_a_png_may_be_of_any_size_or_broken():
    image = picture("cat", 2)
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "y" * 2_000_000, zip=True)
    large = encoded(image, pnginfo=info)
    assert (decode(large, SIDE) == np.asarray(image)).all()
    plain = encoded(image)
    body = b"iCCPwrong"
    chunk = struct.pack(">I", 5) + body + struct.pack(">I", zlib.crc32(body) ^ 1)
    assert (decode(plain[:33] + chunk + plain[33:], SIDE) == np.asarray(image)).all()
    with pytest.raises(UnreadableError):
        decode((plain[:33] + chunk + plain[33:])[:-60], SIDE)


def test_large_images_have_a_limit_that_can_be_set(two, here):
    Pillow.new("L", (2000, 1500), 128).save(two / "dog" / "large.png")
    report = here.check(two, max_megapixels=2)
    assert report.unreadable == {
        "dog/large.png": "2000 x 1500 pixels are more than 2 megapixels; "
        "options: {max_megapixels: 4} reads it"
    }
    assert here.check(two, max_megapixels=4).unreadable == {}
    big = Pillow.new("L", (15000, 12000), 128)
    with pytest.raises(UnreadableError, match=r"15000 x 12000 .* than 179 megapixels"):
        decode(encoded(big), 8)
    assert (decode(encoded(big), 8, Reading(max_megapixels=181)) == 128).all()


def test_every_broken_image_is_listed_with_its_reason(two, here, tmp_path):
    for index in range(9):
        (two / "dog" / f"bad{index}.png").write_bytes(b"no image %d" % index)
    code, text = here.command("folder", two)
    assert code == 1
    assert "9 images cannot be decoded" in text
    assert "bad8" not in text
    code, text = here.command("folder", two, "--all", "--csv", tmp_path / "bad.csv")
    for index in range(9):
        assert f"    dog/bad{index}.png: no image of a known kind: it begins with b'no im" in text
    rows = (tmp_path / "bad.csv").read_text().splitlines()
    assert rows[0] == "problem,image,class,split,remark"
    assert sum(",dog,train,no image of a known kind" in row for row in rows) == 9


def test_a_heif_photograph_is_named_as_one(two, here):
    (two / "dog" / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 40)
    assert here.check(two).unreadable == {
        "dog/a.heic": "a photograph in HEIF, which Pillow does not read: save it as JPEG"
    }


def test_a_link_to_itself_is_named(two, here):
    (two / "dog" / "again").symlink_to("again")
    with pytest.raises(DataError) as caught:
        here.open(two)
    assert str(caught.value) == (
        f"{two / 'dog'}: 'dog/again' is a link that leads back to itself\n  remove the link"
    )


# --- depth and alpha ---


def ramp(top):
    return np.tile((np.arange(SIDE) * (top / (SIDE - 1))).astype(np.uint16), (SIDE, 1))


@pytest.mark.parametrize(("top", "bits"), [(4095, 12), (1023, 10), (255, 8)])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_fewer_bits_in_sixteen_are_told_or_scaled(top, bits, kind):
    data = encoded(Pillow.fromarray(ramp(top)), kind)
    with pytest.raises(UnreadableError, match=rf"none is above {top}: it would be black"):
        decode(data, SIDE)
    expected = np.repeat((ramp(top) >> (bits - 8)).astype(np.uint8)[..., None], 3, axis=2)
    for depth in (str(bits), "per_image"):
        assert (decode(data, SIDE, Reading(depth=depth)) == expected).all()
    assert decode(data, SIDE, Reading(depth="16")).max() == top >> 8


def test_all_sixteen_bits_are_as_they_were():
    data = encoded(Pillow.fromarray(ramp(65535)))
    assert (decode(data, SIDE)[..., 0] == ramp(65535) >> 8).all()
    assert (decode(data, SIDE, Reading(depth="per_image"))[..., 0] == ramp(65535) >> 8).all()
    with pytest.raises(UnreadableError, match="pixels from 0 to 65535 are not of depth 12"):
        decode(data, SIDE, Reading(depth="12"))
    assert (decode(encoded(Pillow.fromarray(np.zeros((4, 4), np.uint16))), 4) == 0).all()


def png_of_16_bit_colours(values):
    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    height, width, _ = values.shape

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(raw)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_colours_of_sixteen_bits_are_told_too():
    colours = np.repeat(ramp(4095)[..., None], 3, axis=2)
    with pytest.raises(UnreadableError, match="save it with 8 bits a colour"):
        decode(png_of_16_bit_colours(colours), SIDE)
    assert decode(png_of_16_bit_colours(colours), SIDE, Reading(depth="16")).max() == 15
    assert decode(png_of_16_bit_colours(colours * 16), SIDE).max() == 255


def test_pixels_of_32_bits_need_a_depth():
    floats = encoded(
        Pillow.fromarray(np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4)), "TIFF"
    )
    with pytest.raises(UnreadableError, match=r"32 bits, 0 to 1, have no natural 8-bit range"):
        decode(floats, 4)
    assert decode(floats, 4, Reading(depth="1")).max() == 255
    assert decode(floats, 4, Reading(depth="per_image")).max() == 255
    whole = encoded(Pillow.fromarray(ramp(4095).astype(np.int32)), "TIFF")
    assert (decode(whole, SIDE, Reading(depth="12"))[..., 0] == ramp(4095) >> 4).all()
    bad = encoded(Pillow.fromarray(np.array([[np.nan, 1.0]], np.float32)), "TIFF")
    with pytest.raises(UnreadableError, match="not of depth"):
        decode(bad, 1, Reading(depth="8"))


def test_alpha_of_nothing_is_told():
    clear = picture("dog", 1).convert("RGBA")
    clear.putalpha(0)
    data = encoded(clear)
    with pytest.raises(UnreadableError, match="alpha is 0 everywhere, so it would be white"):
        decode(data, SIDE)
    assert (decode(data, SIDE, Reading(alpha="white")) == 255).all()
    shown = decode(data, SIDE, Reading(alpha="ignore"))
    assert (shown == np.asarray(picture("dog", 1))).all()


def test_how_pixels_are_read_is_in_the_fingerprint_and_not_mixed_up_in_the_cache(tmp_path, here):
    for label in ("cat", "dog"):
        (tmp_path / "set" / label).mkdir(parents=True)
        for index in range(4):
            deep = Pillow.fromarray(ramp(4095 - index - (label == "cat") * 10))
            deep.save(tmp_path / "set" / label / f"{index}.png")
    data = DataSpec(
        dataset="folder",
        root=str(tmp_path / "set"),
        val_per_class=1,
        test_per_class=1,
        image_size=8,
    )
    dark, light = (data.model_copy(update={"options": (("depth", depth),)}) for depth in ("16", 12))
    assert here.open(tmp_path / "set").version == "decode 1"
    found = [resolve(one, 0, **here.places) for one in (data, dark, light)]
    assert len({one.fingerprint for one in found}) == 3
    top = [
        load(resolved, one, **here.places).images.max()
        for resolved, one in zip(found[1:], (dark, light), strict=True)
    ]
    assert top[0] < 16
    assert top[1] > 240


# --- archives and lists ---


@pytest.mark.parametrize("inside", ["", "photos/"])
def test_a_zip_is_the_folder_that_it_was_made_of(inside, two, here, tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as packed:
        for path in sorted(two.rglob("*.png")):
            packed.write(path, f"{inside}{path.relative_to(two)}")
    zipped = here.open(tmp_path / "set.zip")
    assert zipped.fingerprint == here.open(two).fingerprint


def test_metadata_of_hugging_face_is_a_list(tmp_path, here):
    root = manifest(tmp_path / "set", [("ab"[i % 2], "a caption") for i in range(12)]).parent
    text = (root / "manifest.csv").read_text().replace("path,label,group", "file_name,label,text")
    (root / "metadata.csv").write_text(text)
    (root / "manifest.csv").unlink()
    for place in (root, root / "metadata.csv"):
        assert here.open(place, "manifest").classes == ("a", "b")
    assert here.open(root, "huggingface", partial=True).classes == ("a", "b")
    with pytest.raises(DataError, match=r"metadata\.csv lists them: dataset: huggingface"):
        here.open(root)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_in_a_tar_have_a_hint_that_helps(kind, two, here, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as packed:
        packed.add(two, arcname="set")
        link = tarfile.TarInfo("set/cat/link.png")
        link.type, link.linkname = kind, "000.png"
        packed.addfile(link)
    with pytest.raises(DataError, match="tar --dereference --hard-dereference -czf"):
        here.open(tmp_path / "a.tar")


# --- duplicates and leakage ---


@pytest.fixture
def split(tmp_path):
    for part, count in (("train", 12), ("test", 4)):
        for label in ("cat", "dog"):
            (tmp_path / "set" / part / label).mkdir(parents=True)
            for index in range(count):
                picture(label, f"{part}{index}").save(
                    tmp_path / "set" / part / label / f"{index}.png"
                )
    return tmp_path / "set"


def test_a_clean_set_has_no_problems_and_status_0(split, here):
    assert here.command("folder", split)[0] == 0
    assert here.check(split).problems == ()


def test_one_content_under_two_labels_is_a_problem(split, here):
    for label in ("cat", "dog"):
        picture("same", 0).save(split / "train" / label / "same.png")
    code, text = here.command("folder", split)
    assert code == 1
    assert (
        "problem: 1 image is in two classes (the one in test is kept, else the first): "
        "train/cat/same.png = train/dog/same.png. Remove each from the class" in text
    )


@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize("mirrored", [True, False])
def test_a_test_image_saved_again_in_train_is_a_problem(smooth, mirrored, split, here):
    side = 48
    if smooth:
        values = np.linspace(0, 255, side * side * 3).reshape(side, side, 3)
    else:
        coarse = np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8)
        values = np.asarray(
            Pillow.fromarray(coarse).resize((side, side), Pillow.Resampling.BICUBIC)
        )
    image = Pillow.fromarray(values.astype(np.uint8))
    image.save(split / "test" / "cat" / "again.png")
    flipped = image.transpose(Pillow.Transpose.FLIP_LEFT_RIGHT) if mirrored else image
    flipped.save(split / "train" / "cat" / "again.jpg", quality=92)
    code, text = here.command("folder", split)
    assert code == 1
    assert "1 image of validation or test shows what a training image shows" in text
    assert "test/cat/again.png = train/cat/again.jpg" in text
    assert here.command("folder", split, "--bytes-only")[0] == 0


def test_different_gradients_are_different_pictures(split, here):
    for part, top in (("train", 255), ("test", 200)):
        values = np.linspace(0, top, 48 * 48 * 3).reshape(48, 48, 3)
        Pillow.fromarray(values.astype(np.uint8)).save(split / part / "cat" / "gradient.png")
    assert here.check(split).problems == ()


def test_groups_in_both_splits_are_a_problem(tmp_path, here):
    rows = [("ab"[i % 2], ["train", "test"][(i // 2) % 2], f"p{i // 8}") for i in range(40)]
    table = manifest(tmp_path / "set", rows, "path,label,split,group")
    code, text = here.command("manifest", table)
    assert code == 1
    assert (
        "problem: 5 groups have images in more than one split, so 20 training images cannot be "
        "used: p0; p1; p2; p3; p4. Put all images of a group into one split" in text
    )
    assert "images_per_class can be at most 0" in text


def test_listed_images_that_are_missing_are_a_problem(tmp_path, here):
    root = manifest(tmp_path / "set", [("ab"[i % 2], "x") for i in range(12)]).parent
    text = (root / "manifest.csv").read_text().replace("path,label,group", "file_name,label,text")
    (root / "metadata.csv").write_text(text)
    (root / "3.png").unlink()
    with pytest.raises(DataError, match="1 of 12 listed images are missing"):
        here.check(root, "huggingface")
    code, text = here.command("huggingface", root, "--option", "partial=true")
    assert code == 1
    assert "problem: 1 of 12 listed images are missing: 3.png. Complete the copy" in text


# --- noise, memory and time ---


def test_warnings_are_one_line_with_their_number(two, here, recwarn, caplog):
    entries = b"\x02\0\x12\x01\x03\0\x01\0\0\0\x01\0\0\0\x0f\x01\x02\0\xff\0\0\0\x50\0\0\0"
    for index in range(5):
        exif = b"Exif\0\0II*\0\x08\0\0\0" + entries
        picture("dog", index).save(two / "dog" / f"w{index}.jpg", exif=exif)
    line = (
        "10 warnings while reading images: Tag data larger than file. Skipping tag 271 and 1 other "
        "warning"
    )
    assert line in here.check(two).remarks
    data = DataSpec(
        dataset="folder", root=str(two), images_per_class=None, val_per_class=1, test_per_class=2
    )
    load(resolve(data, 0, **here.places), data, **here.places)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1
    assert "warnings while reading images: Tag data" in told[0]
    assert not [one for one in recwarn if "PIL" in str(one.filename)]


def test_pipes_and_devices_are_refused(two, here):
    os.mkfifo(two / "dog" / "pipe.jpg")
    with pytest.raises(DataError, match=r"'dog/pipe\.jpg' is not a regular file"):
        here.open(two)
    (two / "dog" / "pipe.jpg").unlink()
    (two / "dog" / "zero.jpg").symlink_to("/dev/zero")
    with pytest.raises(DataError, match=r"'dog/zero\.jpg' is not a regular file"):
        here.open(two)
    table = manifest(two / "list", [("a", "x"), ("b", "y")])
    (two / "list" / "0.png").unlink()
    os.mkfifo(two / "list" / "0.png")
    with pytest.raises(DataError, match=r"'0\.png' is not a regular file"):
        here.open(table, "manifest")


def test_a_diamond_of_links_is_refused_at_once(two, here):
    above = two / "cat"
    for level in range(24):
        (above / "d").mkdir()
        (above / "e").symlink_to("d")
        above = above / "d"
        (above / f"{level}.png").write_bytes(encoded(picture("cat", level)))
    with pytest.raises(DataError, match="are one folder, reached through a link"):
        here.open(two)


def test_deep_folders_are_refused(two, here):
    start = Path.cwd()
    try:
        os.chdir(two / "cat")
        for _ in range(1500):
            Path("d").mkdir()
            os.chdir("d")
    finally:
        os.chdir(start)
    try:
        with pytest.raises(DataError, match="folders lie more than 64 deep"):
            here.open(two)
    finally:
        os.system(f"rm -rf {two}/cat")  # shutil cannot go as deep


def tar_of(path, *members):
    with tarfile.open(path, "w:gz") as packed:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.size = kind, len(content)
            packed.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_that_unpacks_to_more_than_a_mebibyte_is_refused(kind, tmp_path, here):
    path = tar_of(tmp_path / "a.tar.gz", ("h", kind, bytes(3 * 2**20)))
    with pytest.raises(DataError, match="a header of 3,145,728 bytes"):
        here.open(path)


def test_a_chain_of_long_names_is_an_error(tmp_path, here):
    chain = [("././@LongLink", tarfile.GNUTYPE_LONGNAME, b"name\0")] * 2000
    path = tar_of(tmp_path / "a.tar.gz", *chain, ("cat/0.png", tarfile.REGTYPE, b"x"))
    with pytest.raises(DataError, match="cannot be read to its end"):
        here.open(path)


def test_members_need_room(two, here, tmp_path, monkeypatch):
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as packed:
        packed.add(two, arcname="set")
    monkeypatch.setattr(mount, "_ROOM_LEFT", 2**60)
    with pytest.raises(
        DataError, match=r"do not fit into the cache: .* MiB are free(.|\n)*--results"
    ):
        here.open(tmp_path / "a.tar.gz")
    assert not list((tmp_path / "results").rglob("*.tmp"))
    assert archive.MAX_MEMBER_BYTES == 256 * 2**20


def test_unknown_methods_of_compression_are_an_error(two, here, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        for path in sorted(two.rglob("*.png")):
            packed.write(path, path.relative_to(two))
    content = bytearray((tmp_path / "a.zip").read_bytes())
    at = content.find(b"PK\x01\x02")
    content[at + 10 : at + 12] = struct.pack("<H", 97)
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(DataError, match=r"compression(.|\n)*zip with deflate"):
        here.open(tmp_path / "a.zip")


# --- lists of other programs ---


@pytest.mark.parametrize(
    ("suffix", "content", "says"),
    [
        (".cls", "²", None),
        (".cls", "9" * 5000, None),
        (".cls", "", "which is no name"),
        (".json", "[" * 100_000, "is no JSON"),
        (".json", "[1]", "is no JSON object"),
        (".json", '{"label": [1]}', "no text or number"),
        (".json", '{"label": true}', "no text or number"),
        (".json", "{}", "no text or number"),
        (".json", '{"label": "\\ud800"}', "which is no name"),
    ],
)
def test_labels_of_shards_are_names_or_an_error(suffix, content, says, tmp_path, here):
    with tarfile.open(tmp_path / "train.tar", "w") as packed:
        for index in range(2):
            text = content if index else {"cls": "1", "json": '{"label": "1"}'}[suffix[1:]]
            for name, data in (
                (f"{index}.png", encoded(picture("x", index))),
                (f"{index}{suffix}", text.encode()),
            ):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                packed.addfile(info, io.BytesIO(data))
    if says is None:
        assert len(here.open(tmp_path, "webdataset").classes) == 2
        return
    with pytest.raises(DataError, match=says):
        here.open(tmp_path, "webdataset")


@pytest.mark.parametrize(
    ("state", "info", "says"),
    [
        ("[]", "{}", "is no JSON object"),
        ("{}", "{}", "has no list _data_files"),
        ('{"_data_files": ["a"]}', "{}", "has no list _data_files"),
        ('{"_data_files": [{}]}', "[" * 100_000, "is no JSON"),
        ('{"_data_files": [{}]}', '{"features": []}', "has no features"),
        ('{"_data_files": [{}]}', '{"features": {"image": 1, "label": 2}}', "is missing; found"),
    ],
)
def test_what_save_to_disk_did_not_write_is_an_error(state, info, says, tmp_path, here):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "state.json").write_text(state)
    (tmp_path / "set" / "dataset_info.json").write_text(info)
    with pytest.raises(DataError, match=says):
        here.open(tmp_path / "set", "huggingface")


def test_only_splits_have_classes_that_can_vanish(split, here):
    (split / "docs" / "more").mkdir(parents=True)
    (split / "docs" / "more" / "a.txt").write_text("read me")
    (split / "train" / "a.txt").write_text("read me")
    assert here.open(split).notes == {"files_passed_over": "2 .txt"}
    (split / "test" / "owl").mkdir()
    with pytest.raises(DataError, match=r"1 folder has no images and would be no class: 'owl'"):
        open_dataset("folder", f"{split}/../set", **here.places, options=(("depth", "16"),))


@pytest.mark.parametrize("name", ["set.tar.gz", "set.tar", "set.zip", "set.csv"])
def test_placeholders_of_archives_and_lists_are_told(name, tmp_path, here):
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{0:064}\nsize 43000\n"
    (tmp_path / name).write_text(text)
    kind = "manifest" if name.endswith("csv") else "folder"
    with pytest.raises(DataError, match="is a Git LFS pointer, not the file: git lfs pull"):
        here.open(tmp_path / name, kind)


def test_zeros_without_end_are_not_read_to_their_end(tmp_path, here):
    with gzip.open(tmp_path / "a.tar.gz", "wb", compresslevel=1) as packed:
        for _ in range(80):
            packed.write(bytes(2**20))
    with pytest.raises(DataError, match="64 MiB follow its end mark"):
        here.open(tmp_path / "a.tar.gz")


def test_a_class_of_a_hub_s_folder_does_not_vanish_either(split, here):
    assert here.open(split, "huggingface").classes == ("cat", "dog")
    (split / "train" / "owl").mkdir()
    (split / "train" / "owl" / "a.mp4").write_bytes(b"a film")
    with pytest.raises(DataError, match=r"would be no class: 'owl' \(1 \.mp4\)"):
        here.open(split, "huggingface", partial=True)
    assert here.open(split, "huggingface", without_empty=True).classes == ("cat", "dog")


def test_a_file_that_is_too_large_is_refused_and_not_read(two, here):
    with (two / "dog" / "hole.png").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(
        DataError, match=r"hole\.png: 1,099,511,627,776 bytes are more than an image"
    ):
        here.open(two)
