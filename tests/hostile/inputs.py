"""Hostile and broken inputs, made by rule from a few sound ones: the same number gives the same input."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import shutil
import struct
import tarfile
import unicodedata
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from tests.hostile.harness import Case

GRID = """\
about: one tiny run
defaults:
  target: {dataset: digits, image_size: 32, images_per_class: 5, val_per_class: 3, test_per_class: 5}
  model: narrow8_32
  train: {epochs: 1, batch_size: 16, lr: 0.01}
  pretrain: {epochs: 1, batch_size: 32}
sources:
  other: {dataset: wordnet-shapes, classes: {recipe: random, n: 4}, images_per_class: 5}
experiments:
  first:
    about: two runs
    axes: {pattern: [scratch, tune], source: [other], seed: [0, 1]}
    exclude: [{pattern: scratch}]
    include: [{pattern: scratch, source: none}]
"""
FOLDER_GRID = """\
about: a folder of images
defaults:
  target: {dataset: folder, root: photos, image_size: 32, images_per_class: 4, val_per_class: 2, test_per_class: 3, on_short: cap}
  model: narrow8_32
  train: {epochs: 1, batch_size: 4, lr: 0.01}
experiments:
  first:
    about: one run
    axes: {pattern: [scratch], seed: [0]}
"""
DRY = ("grid", "grid.yaml", "--dry-run")
CHECK = ("data", "check", "folder", "photos")


def photo(number: int, size: int = 40) -> Image.Image:
    """A colour with noise."""
    draw = np.random.default_rng(number)
    base = draw.integers(40, 215, 3) + draw.normal(0, 30, (size, size, 3))
    return Image.fromarray(np.clip(base, 0, 255).astype(np.uint8))


def photos(root: Path, names: tuple[str, ...] = ("cat", "dog"), each: int = 10) -> Path:
    """A folder per class."""
    for i, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for j in range(each):
            photo(1000 * i + j).save(root / name / f"{j:02d}.png")
    return root


def encoded(kind: str, number: int = 7) -> bytes:
    """A sound image file."""
    buffer = io.BytesIO()
    photo(number).save(buffer, kind)
    return buffer.getvalue()


def mutated(data: bytes, draw: random.Random) -> bytes:
    """Bytes cut, flipped, doubled, removed or overwritten."""
    data = bytearray(data)
    for _ in range(draw.choice((1, 1, 3, 20))):
        at = draw.randrange(max(len(data), 1))
        match draw.randrange(5):
            case 0:
                del data[at:]
            case 1 if data:
                at = min(at, len(data) - 1)
                data[at] ^= 1 << draw.randrange(8)
            case 2:
                data[at:at] = data[at : at + draw.randrange(1, 64)]
            case 3:
                del data[at : at + draw.randrange(1, 64)]
            case 4:
                data[at : at + 4] = draw.choice(
                    (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\n\n\n\n")
                )
    return bytes(data)


def _text(name: str, text: str | bytes) -> Callable[[Path], None]:
    data = text.encode("utf8", "surrogateescape") if isinstance(text, str) else text

    def build(folder: Path) -> None:
        (folder / name).write_bytes(data)

    return build


HOSTILE_VALUES = (
    "[0, 1", "{a: 1", "&a [*a]", "*nothing", "!!python/object/apply:os.system [id]", "!!binary x", "'\\x00'",
    '"\\u202e"', "1e400", "-1", "0", ".nan", ".inf", "1:30", "010", "0x10", "0b11", "2024-01-01", "yes", "no", "~",
    "''", "[]", "{}", "[[[]]]", "{<<: 5}", "{<<: [1]}", "99999999999999999999999", "1_000", "1.0", "'1'", "a" * 5000,
    "é", "e\u0301", "../../../etc/passwd", "/dev/zero", "/proc/self/mem", "|", ">\n      x", "? x", "[red]x[/red]",
    '"\\e[31m"', "{a: 1, a: 2}", "{1: 2}", "{[1]: 2}", "- x", "@x", "`x`", "%x", "true", "null", "1e-4", "1E5", "+1", "--1",
)  # fmt: skip
PATHS = (
    "about", "defaults", "defaults.target", "target.dataset", "target.image_size", "target.images_per_class",
    "target.classes", "model", "train", "train.lr", "train.epochs", "train.batch_size", "pretrain", "sources",
    "sources.other", "experiments", "experiments.first", "axes", "axes.pattern", "axes.seed", "name", "slurm",
    "slurm.timeout_min", "measure", "borrow", "method", "weights", "parent", "zip", "include", "exclude",
)  # fmt: skip


def grids() -> Iterator[Case]:
    """Grid files: any value at any place, cut and mutated text, deep and wide structures."""
    number = 0
    draw = random.Random("grid values")
    for path in PATHS:
        for value in draw.sample(HOSTILE_VALUES, 9):
            yield Case(f"grid-value-{number:03d}", DRY, _text("grid.yaml", _with(path, value)))
            number += 1
    for number in range(60):
        draw = random.Random(f"grid bytes {number}")
        yield Case(
            f"grid-bytes-{number:03d}", DRY, _text("grid.yaml", mutated(GRID.encode(), draw))
        )
    structures = {
        "flow-deep": "a: " + "[" * 3000 + "]" * 3000,
        "map-deep": "a: " + "{a: " * 900 + "1" + "}" * 900,
        "block-deep": "".join(" " * i + "a:\n" for i in range(1200)),
        "laughs": "a: &a [x, x]\n" + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(24)),
        "long-line": "about: " + "x" * 3_000_000,
        "many-keys": "".join(f"k{i}: 1\n" for i in range(50_000)),
        "utf16": GRID.encode("utf16"),
        "latin1": "about: é\n".encode("latin1") + GRID.encode(),
        "bom": b"\xef\xbb\xbf" + GRID.encode(),
        "crlf": GRID.replace("\n", "\r\n").encode(),
        "tabs": GRID.replace("  ", "\t"),
        "empty": "", "comment": "# nothing\n", "list": "- a\n- b\n", "scalar": "hello\n", "two": GRID + "---\n" + GRID,
        "binary": bytes(range(256)) * 40,
        "csv": ",".join(f"column{i}" for i in range(3000)) + "\n1,2\n",
        "merge": "defaults: {<<: 5}\n", "recursive": "defaults: &a {target: *a}\n",
        "axes-huge": GRID.replace("seed: [0, 1]", "seed: " + json.dumps(list(range(3000))) + ", train.lr: " + json.dumps([i / 1e4 for i in range(1, 2000)])),
        "pattern-huge": GRID.replace("[scratch, tune]", '["T(1-99999999)"]'),
        "epochs-huge": GRID.replace("epochs: 1", "epochs: 10000000000000000000000"),
        "name-long": "name: " + "x" * 300 + "\n" + GRID, "name-dots": "name: ..\n" + GRID,
        "name-slash": "name: ../x\n" + GRID, "name-escape": 'name: "a\\e[31mb"\n' + GRID,
        "experiment-semicolon": GRID.replace("  first:", '  "a;b":'), "experiment-markup": GRID.replace("  first:", '  "[/x]":'),
        "experiment-empty": GRID.replace("  first:", '  "":'), "experiment-newline": GRID.replace("  first:", '  "a\\nb":'),
        "experiment-escape": GRID.replace("  first:", '  "a\\e[2Jb":'), "experiment-comma": GRID.replace("  first:", '  "a,b":'),
        "about-markup": GRID.replace("two runs", '"[bold]x[/]"'), "about-escape": GRID.replace("two runs", '"\\e[2J x"'),
    }  # fmt: skip
    refused = {
        "flow-deep", "map-deep", "block-deep", "laughs", "long-line", "many-keys", "utf16", "empty", "comment", "list",
        "scalar", "two", "binary", "csv", "merge", "recursive", "pattern-huge", "epochs-huge", "name-long", "name-dots",
        "name-slash", "name-escape", "experiment-semicolon", "experiment-empty", "experiment-newline", "experiment-escape",
        "axes-huge", "latin1", "tabs",
    }  # fmt: skip
    for i, (name, text) in enumerate(structures.items()):
        error = True if name in refused else None
        says = ("grid.yaml",) if error else ()
        yield Case(f"grid-{name}-{i:03d}", DRY, _text("grid.yaml", text), error, says)
    for i, path in enumerate(
        ("grid.yaml", "missing.yaml", "folder", "/dev/zero", "/dev/null", "pipe", "loop", "")
    ):

        def special(folder: Path) -> None:
            (folder / "folder").mkdir()
            os.mkfifo(folder / "pipe")
            os.symlink("loop", folder / "loop")

        yield Case(f"grid-path-{i:03d}", ("grid", path, "--dry-run"), special, True)


def _with(path: str, value: str) -> str:
    """The grid with a hostile value at a place, as a user would have typed it."""
    head, _, last = path.rpartition(".")
    if path in ("about", "name", "slurm", "measure", "defaults", "sources", "experiments"):
        kept = [block for block in GRID.split("\n") if block]
        if path in ("about", "defaults", "sources", "experiments"):
            start = next(i for i, line in enumerate(kept) if line.startswith(path))
            end = next(
                (i for i in range(start + 1, len(kept)) if not kept[i].startswith(" ")), len(kept)
            )
            del kept[start:end]
        return "\n".join(kept) + f"\n{path}: {value}\n"
    if path == "slurm.timeout_min":
        return GRID + f"slurm: {{timeout_min: {value}}}\n"
    if path in ("experiments.first", "sources.other"):
        return (
            GRID + f"  {last}x: {value}\n"
            if head == "experiments"
            else GRID.replace("  other: {", f"  second: {value}\n  other: {{")
        )
    if path in ("axes", "zip", "include", "exclude", "axes.pattern", "axes.seed"):
        line = (
            f"axes: {value}"
            if path == "axes"
            else f"axes: {{{last}: {value}}}"
            if head
            else f"{path}: {value}"
        )
        return GRID.partition("  first:")[0] + f"  first:\n    about: x\n    {line}\n"
    return GRID.replace(
        "    about: two runs\n", f"    about: two runs\n    set: {{{path}: {value}}}\n"
    )


def overrides() -> Iterator[Case]:
    """`--set` and other options of the command line."""
    draw = random.Random("set")
    keys = (
        "train.lr",
        "target.root",
        "model",
        "seed",
        "weights",
        "train",
        "nothing.at.all",
        "",
        "target.classes",
        "pattern",
        "a.b.c",
    )
    for i in range(80):
        text = f"{draw.choice(keys)}={draw.choice(HOSTILE_VALUES)}"
        yield Case(f"option-set-{i:03d}", (*DRY, "--set", text), _text("grid.yaml", GRID))
    others = [
        ("--results", ""), ("--results", "x" * 300), ("--results", "grid.yaml"), ("--results", "/proc/none"), ("--workers", "0"),
        ("--workers", "-3"), ("--workers", "many"), ("--workers", "99999999"), ("--only", ""), ("--only", "\x1b[31m"), ("--only", "[/x]"),
        ("--preset", "../x"), ("--preset", ""), ("--set", "="), ("--set", "x"), ("--set", "=x"), ("--data-root", ""),
        ("--data-root", "/nowhere"), ("--data-root", "grid.yaml"), ("--device", "gpu9"), ("--device", ""), ("--gpus", "-1"),
    ]  # fmt: skip
    for i, pair in enumerate(others):
        yield Case(f"option-other-{i:03d}", (*DRY, *pair), _text("grid.yaml", GRID))


def images() -> Iterator[Case]:
    """A folder of photographs with one file or one name that is wrong."""

    def put(name: str, data: bytes) -> Callable[[Path], None]:
        def build(folder: Path) -> None:
            photos(folder / "photos")
            (folder / "photos" / "dog" / name).write_bytes(data)

        return build

    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        sound = encoded(kind)
        for i in range(20):
            draw = random.Random(f"{kind} {i}")
            yield Case(
                f"image-{kind.lower()}-{i:03d}",
                CHECK,
                put(f"odd.{kind.lower()}", mutated(sound, draw)),
            )
    bomb = io.BytesIO()
    Image.new("1", (60_000, 60_000)).save(bomb, "PNG")
    odd = {
        "empty.png": b"", "text.png": b"hello", "html.jpg": b"<!doctype html><p>404</p>", "zero.jpg": bytes(1000),
        "lfs.jpg": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 43000\n",
        "svg.png": b"<svg xmlns='http://www.w3.org/2000/svg'/>", "bomb.png": bomb.getvalue(),
        "gz.png": gzip.compress(encoded("PNG")), "[red].png": encoded("PNG"), "a\x1b[2J.png": b"no image", "a\nb.png": b"no image",
        "a\tb.png": encoded("PNG"), "-rf.png": encoded("PNG"), " .png": encoded("PNG"), "x" * 240 + ".png": b"no", ".hidden.png": b"no",
        "e\u0301.png": encoded("PNG"), "a;b,c.png": encoded("PNG"), "noending": encoded("PNG"), "wrong.txt": encoded("PNG"),
    }  # fmt: skip
    for i, (name, data) in enumerate(odd.items()):
        yield Case(f"image-odd-{i:03d}", CHECK, put(name, data))
        yield Case(
            f"image-oddgrid-{i:03d}", DRY, _both(put(name, data), _text("grid.yaml", FOLDER_GRID))
        )
    for i, build in enumerate(
        (_fifo, _zero_link, _loops, _diamond, _deep, _unreadable, _socket, _dangling, _outside)
    ):
        says = ("regular file",) if build in (_fifo, _socket) else ()
        yield Case(f"folder-special-{i:03d}", CHECK, build, None, says)
        yield Case(
            f"folder-specialgrid-{i:03d}", DRY, _both(build, _text("grid.yaml", FOLDER_GRID))
        )
    names = ("cat ", "Cat", "e\u0301", unicodedata.normalize("NFC", "e\u0301"), "a\x1b[31m", "a\nb", "[/x]", "a;b", "a,b", "a|b", "<b>x</b>",
             "..x", "~", "null", "no", "007", "0x1F", "1e3", "=1+1", "x" * 250, "\u202egnp", "\ufeffcat", "\x7f", "🦉", "a:b", "a#b", "'", '"', "\\", "%s", "{x}")  # fmt: skip
    for i, name in enumerate(names):

        def build(folder: Path, name: str = name) -> None:
            photos(folder / "photos", ("cat", "dog", name))
            _text("grid.yaml", FOLDER_GRID)(folder)

        yield Case(f"folder-name-{i:03d}", CHECK, build)
        yield Case(f"folder-namegrid-{i:03d}", DRY, build)


def _both(*builds: Callable[[Path], None]) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        for one in builds:
            one(folder)

    return build


def _fifo(folder: Path) -> None:
    os.mkfifo(photos(folder / "photos") / "dog" / "pipe.jpg")


def _socket(folder: Path) -> None:
    import socket

    photos(folder / "photos")
    here = Path.cwd()
    os.chdir(folder / "photos" / "dog")  # a socket's path must be short
    try:
        socket.socket(socket.AF_UNIX).bind("s.png")
    finally:
        os.chdir(here)


def _zero_link(folder: Path) -> None:
    os.symlink("/dev/zero", photos(folder / "photos") / "dog" / "zero.png")


def _loops(folder: Path) -> None:
    root = photos(folder / "photos")
    os.symlink("..", root / "dog" / "up")
    os.symlink("me.png", root / "dog" / "me.png")


def _diamond(folder: Path) -> None:
    root = photos(folder / "photos")
    for i in range(23):
        (root / "dog" / f"d{i}").mkdir()
    for i in range(22):
        os.symlink(f"../d{i + 1}", root / "dog" / f"d{i}" / "a")
        os.symlink(f"../d{i + 1}", root / "dog" / f"d{i}" / "b")


def _deep(folder: Path) -> None:
    root = photos(folder / "photos")
    here = os.open(root / "dog", os.O_RDONLY)
    try:
        for _ in range(1500):
            os.mkdir("d", dir_fd=here)
            deeper = os.open("d", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = deeper
    finally:
        os.close(here)


def _unreadable(folder: Path) -> None:
    os.chmod(photos(folder / "photos") / "dog" / "03.png", 0)


def _dangling(folder: Path) -> None:
    os.symlink("nothing.png", photos(folder / "photos") / "dog" / "gone.png")


def _outside(folder: Path) -> None:
    os.symlink("/etc/passwd", photos(folder / "photos") / "dog" / "passwd.png")


def manifests() -> Iterator[Case]:
    """CSV lists of images."""
    sound = "path,label,split,group\n" + "".join(
        f"photos/{name}/{i:02d}.png,{name},{'train' if i < 7 else 'test'},g{i}\n"
        for name in ("cat", "dog")
        for i in range(10)
    )
    command = ("data", "check", "manifest", "list.csv")

    def case(name: str, text: str | bytes, error: bool | None = None) -> Case:
        return Case(
            name,
            command,
            _both(lambda f: photos(f / "photos") and None, _text("list.csv", text)),
            error,
        )

    for i in range(50):
        yield case(
            f"manifest-bytes-{i:03d}", mutated(sound.encode(), random.Random(f"manifest {i}"))
        )
    odd = {
        "empty": "", "header": "path,label\n", "no-label": sound.replace("label", "lable"), "twice": sound.replace("split", "label"),
        "absolute": sound.replace("photos/cat/00", "/etc/passwd/00"), "above": sound.replace("photos/cat/00", "../../../../etc/passwd"),
        "nul": sound.replace("cat/03", "c\0t/03"), "latin": sound.replace("cat,", "caté,").encode("latin1"), "utf16": sound.encode("utf16"),
        "quote": sound.replace("photos/dog/03.png", '"photos/dog/03.png'), "semicolon": sound.replace(",", ";"), "tab": sound.replace(",", "\t"),
        "space": sound.replace(",cat,", ",cat ,", 4), "case": sound.replace(",cat,", ",Cat,", 4), "blank": sound.replace(",cat,", ",,", 1),
        "split": sound.replace(",test,", ",tset,", 1), "wide": sound.replace(",g3", ",g3,extra,extra"), "narrow": sound.replace(",test,g9", ""),
        "huge-field": sound.replace("g3", "g" * 2_000_000), "many": sound + sound * 300, "url": sound.replace("photos/cat/00.png", "http://x/y.png"),
        "directory": sound.replace("photos/cat/00.png", "photos/cat"), "device": sound.replace("photos/cat/00.png", "/dev/zero"),
        "markup": sound.replace(",cat,", ",[/x],"), "escape": sound.replace(",cat,", ",\x1b[2Jcat,"), "formula": sound.replace(",cat,", ",=1+1,"),
    }  # fmt: skip
    refused = {
        "empty",
        "header",
        "no-label",
        "twice",
        "nul",
        "latin",
        "semicolon",
        "split",
        "above",
    }
    for i, (name, text) in enumerate(odd.items()):
        yield case(f"manifest-{name}-{i:03d}", text, True if name in refused else None)


def archives() -> Iterator[Case]:
    """Archives in place of a folder."""
    command = ("data", "check", "folder", "photos.tar")

    def tar(
        change: Callable[[tarfile.TarFile], None], name: str = "photos.tar", mode: str = "w"
    ) -> Callable[[Path], None]:
        def build(folder: Path) -> None:
            photos(folder / "in")
            with tarfile.open(folder / name, mode) as archive:  # type: ignore[call-overload]
                archive.add(folder / "in", "photos")
                change(archive)
            shutil.rmtree(folder / "in")

        return build

    def member(
        name: str, data: bytes = b"x", **fields: object
    ) -> Callable[[tarfile.TarFile], None]:
        def add(archive: tarfile.TarFile) -> None:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in fields.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(data))

        return add

    changes = {
        "above": member("../../evil.png"), "absolute": member("/tmp/evil.png"), "nul": member("photos/dog/a\0b.png"),
        "link": member("photos/dog/l.png", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        "hard": member("photos/dog/h.png", b"", type=tarfile.LNKTYPE, linkname="../../etc/passwd"),
        "fifo": member("photos/dog/f.png", b"", type=tarfile.FIFOTYPE), "device": member("photos/dog/d.png", b"", type=tarfile.CHRTYPE, devmajor=1, devminor=5),
        "twice": member("photos/dog/00.png", encoded("PNG")), "long": member("photos/dog/" + "x" * 4000 + ".png", encoded("PNG")),
        "escape": member("photos/dog/\x1b[2J.png", encoded("PNG")), "newline": member("photos/dog/a\nb.png", encoded("PNG")),
        "huge-pax": member("photos/dog/p.png", encoded("PNG"), pax_headers={"comment": "x" * 50_000_000}), "text": member("photos/dog/t.png", b"no image"),
    }  # fmt: skip
    for i, (name, change) in enumerate(changes.items()):
        yield Case(f"archive-{name}-{i:03d}", command, tar(change))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for label in ("cat", "dog"):
            for j in range(10):
                member(f"photos/{label}/{j}.png", encoded("PNG", j + (label == "cat") * 50))(
                    archive
                )
    for i in range(30):
        data = mutated(buffer.getvalue(), random.Random(f"tar {i}"))
        yield Case(f"archive-tarbytes-{i:03d}", command, _text("photos.tar", data))
    packed = gzip.compress(buffer.getvalue())
    for i in range(15):
        data = mutated(packed, random.Random(f"gz {i}"))
        yield Case(
            f"archive-gzbytes-{i:03d}",
            ("data", "check", "folder", "photos.tar.gz"),
            _text("photos.tar.gz", data),
        )
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive_zip:
        for label in ("cat", "dog"):
            for j in range(10):
                archive_zip.writestr(
                    f"photos/{label}/{j}.png", encoded("PNG", j + (label == "cat") * 50)
                )
    for i in range(25):
        data = mutated(zipped.getvalue(), random.Random(f"zip {i}"))
        yield Case(
            f"archive-zipbytes-{i:03d}",
            ("data", "check", "folder", "photos.zip"),
            _text("photos.zip", data),
        )
    bomb = gzip.compress(bytes(400_000_000), 9)
    yield Case(
        "archive-gzbomb-000",
        ("data", "check", "folder", "photos.tar.gz"),
        _text("photos.tar.gz", bomb),
        True,
    )


def weights() -> Iterator[Case]:
    """Weights files that are no weights, or not these."""
    grid = (
        GRID.replace("sources:", "  weights: {file: net.safetensors}\nsources:")
        .replace("source: [other], ", "")
        .replace(", source: none", "")
    )
    command = ("grid", "grid.yaml", "--results", "results", "--workers", "1")

    def tensors(dtype: str, size: int, shape: list[int], name: str = "x.weight") -> bytes:
        header = json.dumps(
            {name: {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}
        ).encode()
        return struct.pack("<Q", len(header)) + header + bytes(size)

    odd = {
        "empty": b"", "text": b"hello", "html": b"<!doctype html>", "length": struct.pack("<Q", 2**62) + b"{}", "whole": tensors("I32", 8, [2]),
        "complex": tensors("C64", 16, [2]), "bool": tensors("BOOL", 2, [2]), "shape": tensors("F32", 8, [2**40]), "short": tensors("F32", 8, [2])[:-4],
        "other": tensors("F32", 8, [2]), "pickle": b"\x80\x04cposix\nsystem\n(S'touch pwned'\ntR.", "header": struct.pack("<Q", 3) + b"[1]", "deep": struct.pack("<Q", 6000) + b"[" * 6000,
    }  # fmt: skip
    for i, (name, data) in enumerate(odd.items()):
        yield Case(
            f"weights-{name}-{i:03d}",
            command,
            _both(_text("grid.yaml", grid), _text("net.safetensors", data)),
            True,
            ("net.safetensors",),
        )
    for i in range(12):
        data = mutated(tensors("F32", 400, [10, 10]), random.Random(f"weights {i}"))
        yield Case(
            f"weights-bytes-{i:03d}",
            command,
            _both(_text("grid.yaml", grid), _text("net.safetensors", data)),
            True,
        )


def leaderboards(sound: bytes) -> Iterator[Case]:
    """Leaderboards changed by hand, by a spreadsheet or by chance."""
    command = ("findings", "board.csv")
    for i in range(60):
        yield Case(
            f"leaderboard-bytes-{i:03d}",
            command,
            _text("board.csv", mutated(sound, random.Random(f"board {i}"))),
        )
    header, *rows = sound.decode().splitlines()
    columns = header.split(",")

    def cell(column: str, value: str) -> str:
        at = columns.index(column)
        first = rows[0].split(",")
        first[at] = value
        return "\n".join([header, ",".join(first), *rows[1:]]) + "\n"

    i = 0
    for column in (
        "pattern",
        "top1_accuracy",
        "lr",
        "status",
        "test_images",
        "images_per_class",
        "experiments",
        "run_id",
        "seed_draw",
        "role",
    ):
        for value in (
            "T(1-99999999)",
            "-1",
            "nan",
            "1e400",
            "[/x]",
            "\x1b[2J",
            "=1+1",
            '"a',
            "",
            "x" * 100_000,
        ):
            yield Case(
                f"leaderboard-cell-{i:03d}", command, _text("board.csv", cell(column, value))
            )
            i += 1
    others = {
        "empty": "", "header": header, "semicolons": sound.decode().replace(",", ";"), "utf16": sound.decode().encode("utf16"),
        "twice": sound.decode() + "\n".join(rows) + "\n", "columns": sound.decode().replace("pattern", "lr", 1), "binary": bytes(range(256)) * 10,
    }  # fmt: skip
    for i, (name, text) in enumerate(others.items()):
        yield Case(f"leaderboard-{name}-{i:03d}", command, _text("board.csv", text))


def stores(sound: Path, grid: str) -> Iterator[Case]:
    """A results folder with one damaged file: the commands go on, and name it."""
    run = next(path for path in sorted((sound / "runs").iterdir()) if path.is_dir())
    commands = (
        ("status", "grid.yaml"), ("leaderboard", "grid.yaml"), ("show", run.name[-12:]), ("grid", "grid.yaml", "--dry-run"), ("findings", "grid.yaml"),
    )  # fmt: skip

    def damaged(name: str, change: Callable[[Path], None]) -> Callable[[Path], None]:
        def build(folder: Path) -> None:
            shutil.copytree(sound, folder / "results", symlinks=True)
            (folder / "grid.yaml").write_text(grid)
            change(folder / "results" / "runs" / run.name / name)

        return build

    def digit(path: Path) -> None:
        text = path.read_text()
        at = next(i for i in range(len(text) // 2, len(text)) if text[i].isdigit())
        path.write_text(text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :])

    changes: dict[str, tuple[str, Callable[[Path], None]]] = {
        "digit": ("record.json", digit), "latin": ("record.json", lambda p: p.write_bytes(b"\xff\xfe" + p.read_bytes()) and None),
        "empty": ("record.json", lambda p: p.write_bytes(b"") and None), "deep": ("record.json", lambda p: p.write_text("[" * 100_000) and None),
        "list": ("record.json", lambda p: p.write_text("[]") and None), "folder": ("record.json", lambda p: (p.unlink(), p.mkdir()) and None),
        "fifo": ("record.json", lambda p: (p.unlink(), os.mkfifo(p)) and None), "spec-digit": ("spec.json", digit),
        "spec-latin": ("spec.json", lambda p: p.write_bytes(b"\xff") and None), "spec-deep": ("spec.json", lambda p: p.write_text("[" * 100_000) and None),
        "failed": ("failed-0001.json", lambda p: p.write_bytes(b"\xff\x00") and None), "failed-deep": ("failed-0001.json", lambda p: p.write_text("[" * 100_000) and None),
    }  # fmt: skip
    i = 0
    for name, (file, change) in changes.items():
        for command in commands:
            yield Case(f"store-{name}-{i:03d}", command, damaged(file, change))
            i += 1
    data = (run / "record.json").read_bytes()
    for i in range(20):
        broken = mutated(data, random.Random(f"record {i}"))
        yield Case(
            f"store-bytes-{i:03d}",
            ("leaderboard", "grid.yaml"),
            damaged("record.json", lambda p, b=broken: p.write_bytes(b) and None),
        )  # type: ignore[misc]


def every(work: Path, kinds: tuple[str, ...] = ()) -> Iterator[Case]:
    """All cases, or those whose names begin with one of `kinds`.

    Two tiny runs are trained in a process of its own where leaderboards or stores are to be damaged.
    """
    import subprocess
    import sys

    for cases in (grids(), overrides(), images(), manifests(), archives(), weights()):
        yield from (case for case in cases if case.name.startswith(kinds or ""))
    if kinds and not any(kind.startswith(("leaderboard", "store")) for kind in kinds):
        return
    work.mkdir(parents=True)
    grid = GRID.replace("seed: [0, 1]", "seed: [0]")
    (work / "grid.yaml").write_text(grid)
    arguments = [sys.executable, "-m", "bench", "grid", "grid.yaml", "--workers", "1"]
    subprocess.run(arguments, cwd=work, check=True, capture_output=True)
    board = (work / "results" / "grid.csv").read_bytes()
    for cases in (leaderboards(board), stores(work / "results", grid)):
        yield from (case for case in cases if case.name.startswith(kinds or ""))
