"""The decoded cache: decoded once, shared, verified, whole or absent."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from bench.core.errors import DataError
from bench.core.locks import exclusive
from bench.data import decoding
from bench.data.cache import cached_images
from bench.data.dataset import Image

SIZE = 4


def some_images(*names):
    return [Image(n, "a", "train", hashlib.sha256(n.encode()).hexdigest()) for n in names]


def pixels_of(image, size):
    value = int(image.sha256[:2], 16)
    return np.full((size, size, 3), value, dtype=np.uint8)


class Reader:
    """Counts what is decoded."""

    def __init__(self):
        self.decoded = []

    def __call__(self, images, size):
        for image in images:
            self.decoded.append(image.key)
            yield pixels_of(image, size)


def get(cache_dir, images, read, *, version="v1", size=SIZE):
    fingerprint = hashlib.sha256(repr([image.key for image in images]).encode()).hexdigest()
    return cached_images(
        images, size, read, cache_dir=cache_dir, fingerprint=fingerprint, version=version
    )


def entries(cache_dir):
    return sorted(path.name for path in cache_dir.iterdir())


def test_images_are_decoded_once_and_mapped_read_only(tmp_path):
    read, images = Reader(), some_images("x", "y", "z")
    for _ in range(2):
        found = get(tmp_path, images, read)
    assert read.decoded == ["x", "y", "z"]
    assert isinstance(found, np.memmap)
    assert not found.flags.writeable
    assert (found == np.stack([pixels_of(image, SIZE) for image in images])).all()
    assert [name.endswith("-4") for name in entries(tmp_path)] == [True]


def test_another_selection_decodes_only_what_is_new(tmp_path):
    read = Reader()
    get(tmp_path, some_images("x", "y"), read)
    found = get(tmp_path, some_images("z", "y", "x"), read)
    assert read.decoded == ["x", "y", "z"]
    expected = [pixels_of(image, SIZE) for image in some_images("z", "y", "x")]
    assert (found == np.stack(expected)).all()


def test_another_size_or_decoder_decodes_anew(tmp_path):
    read, images = Reader(), some_images("x")
    get(tmp_path, images, read)
    get(tmp_path, images, read, size=14)  # the folder of size 4 ends like that of 14
    get(tmp_path, images, read, version="v2")
    assert read.decoded == ["x", "x", "x"]


@pytest.mark.parametrize("name", ["images.npy", "content.npy", "crc.npy", "manifest.json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "torn", "foreign"])
def test_a_damaged_entry_is_made_anew(tmp_path, name, damage):
    read, images = Reader(), some_images("x", "y")
    get(tmp_path, images, read)
    file = tmp_path / entries(tmp_path)[0] / name
    content = file.read_bytes()
    file.unlink()
    if damage != "missing":
        file.write_bytes({"empty": b"", "torn": content[:-3], "foreign": b"{}" * 80}[damage])
    found = get(tmp_path, images, read)
    assert (found[0] == pixels_of(images[0], SIZE)).all()
    assert len(read.decoded) == 4
    assert len(entries(tmp_path)) == 1


def test_a_flipped_bit_is_noticed(tmp_path):
    read, images = Reader(), some_images("x", "y")
    get(tmp_path, images, read)
    file = tmp_path / entries(tmp_path)[0] / "images.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.unlink()
    file.write_bytes(content)
    assert (get(tmp_path, images, read)[1] == pixels_of(images[1], SIZE)).all()
    assert read.decoded == ["x", "y", "y"]  # the sound row is copied, the other one is not


def test_an_error_while_decoding_leaves_nothing(tmp_path):
    def read(images, size):
        yield pixels_of(images[0], size)
        raise DataError("image 'y' cannot be decoded")

    with pytest.raises(DataError, match="'y'"):
        get(tmp_path, some_images("x", "y"), read)
    assert entries(tmp_path) == []


def failing_at(key, read, error):
    """A reader like `read` that has no bytes of one image."""

    def failing(images, size):
        for image in images:
            if image.key == key:
                raise error
            yield from read([image], size)

    return failing


@pytest.mark.parametrize("error", [DataError("no 'y'"), OSError(5, "Input/output error")])
def test_parts_that_were_finished_before_an_error_are_not_decoded_again(
    tmp_path, monkeypatch, error
):
    monkeypatch.setattr(decoding, "PART_BYTES", 1)
    images, read = some_images("w", "x", "y", "z"), Reader()
    with pytest.raises(DataError):
        get(tmp_path, images, failing_at("y", read, error))
    found = get(tmp_path, images, read)
    assert read.decoded == ["w", "x", "y", "z"]
    assert (found == np.stack([pixels_of(image, SIZE) for image in images])).all()
    assert [name for name in entries(tmp_path) if name.startswith(".")] == []


def test_an_error_of_one_process_leaves_others_their_first_part(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "PART_BYTES", 1)
    images, read = some_images("x", "y"), Reader()

    def first(wanted, size):
        with pytest.raises(DataError):  # meanwhile another one fails at the part that is left
            get(tmp_path, images, failing_at("y", Reader(), DataError("no 'y'")))
        yield from read(wanted, size)

    rows = iter([first, read])
    get(tmp_path, images, lambda wanted, size: next(rows)(wanted, size))
    assert read.decoded == ["x", "y"]


def test_a_selection_without_room_is_shown_what_unfinished_ones_hold(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "PART_BYTES", 1)
    read = failing_at("y", Reader(), DataError("no 'y'"))
    with pytest.raises(DataError):
        get(tmp_path, some_images("x", "y"), read)
    (left,) = entries(tmp_path)
    little = shutil.disk_usage(tmp_path)._replace(free=1)
    monkeypatch.setattr("bench.data.cache.shutil.disk_usage", lambda path: little)
    with pytest.raises(DataError) as caught:
        get(tmp_path, some_images("z"), Reader())
    hint = f"free some space, delete what unfinished selections hold there ({left}), choose another"
    assert caught.value.hint.startswith(hint)
    assert entries(tmp_path) == [left]


def test_a_cache_that_cannot_be_written_is_an_error_with_a_way_out(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="--results"):
        get(tmp_path / "file", some_images("x"), Reader())


def test_what_a_killed_build_left_is_swept_and_a_live_one_stays(tmp_path):
    """By who lives, not by a clock: steps of the clock do no harm."""
    for name in ("dead", "live"):
        left = tmp_path / f".building-{name}"
        left.mkdir()
        (left / "images.npy").write_bytes(b"x")
    with exclusive(tmp_path / ".building-live.lock"):
        get(tmp_path, some_images("x"), Reader())
        left = [name for name in entries(tmp_path) if name.startswith(".")]
        assert sorted(left) == [".building-live", ".building-live.lock"]
    get(tmp_path, some_images("y"), Reader())
    assert [name for name in entries(tmp_path) if name.startswith(".")] == []


def test_a_cache_that_is_deleted_while_it_is_built_is_built_again(tmp_path):
    cache = tmp_path / "cache"
    images = some_images("a", "b")

    class Deleting(Reader):
        times = 0

        def __call__(self, wanted, size):
            if self.times < 2:
                self.times += 1
                shutil.rmtree(cache)
            yield from super().__call__(wanted, size)

    reader = Deleting()
    found = get(cache, images, reader)
    assert len(found) == 2
    assert reader.times == 2


BUILDER = """
import sys, time
from pathlib import Path
import numpy as np
from bench.data import decoding
from bench.data.cache import cached_images
from bench.data.dataset import Image

decoding.PART_BYTES = 12  # an image each
meeting, me = Path(sys.argv[1]), sys.argv[2]
images = [Image(str(n), "a", "train", f"{n:064x}") for n in range(3)]

def read(images, size):
    (meeting / me).touch()
    for image in images:
        (meeting.parent / f"decoded {image.key} {me}").touch()
    while len(list(meeting.iterdir())) < 2:  # both are decoding now
        time.sleep(0.01)
    for image in images:
        yield np.full((size, size, 3), int(image.key) + 1, dtype=np.uint8)

cache = meeting.parent / "cache"
found = cached_images(images, 2, read, cache_dir=cache, fingerprint="f", version="v")
print(found.sum(dtype=np.int64))
"""


def test_two_processes_may_build_one_entry_at_once(tmp_path):
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    command = [sys.executable, "-c", BUILDER, str(meeting)]
    workers = [
        subprocess.Popen([*command, name], stdout=subprocess.PIPE, text=True) for name in "ab"
    ]
    answers = [worker.communicate(timeout=60)[0].strip() for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    assert answers == [str((1 + 2 + 3) * 12)] * 2
    assert entries(tmp_path / "cache") == ["f-2"]
    decoded = sorted(path.name.split()[1] for path in tmp_path.glob("decoded *"))
    assert decoded == ["0", "1", "2"]  # by either, and none by both
    manifest = json.loads((tmp_path / "cache" / "f-2" / "manifest.json").read_text())
    assert manifest["images"] == 3


COUNTED = BUILDER.replace(
    "cache = meeting",
    """
verified = decoding.Parts._verified

def counted(parts):
    (meeting.parent / f"read again by {me}").touch()
    time.sleep(0.5)  # a large file
    return verified(parts)

decoding.Parts._verified = counted
cache = meeting""",
)


def test_one_of_several_processes_reads_the_finished_file_again(tmp_path):
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    command = [sys.executable, "-c", COUNTED, str(meeting)]
    workers = [
        subprocess.Popen([*command, name], stdout=subprocess.PIPE, text=True) for name in "ab"
    ]
    answers = [worker.communicate(timeout=60)[0].strip() for worker in workers]
    assert answers == [str((1 + 2 + 3) * 12)] * 2
    assert len(list(tmp_path.glob("read again by *"))) == 1
    assert entries(tmp_path / "cache") == ["f-2"]


KILLED = BUILDER.replace("while len", "while me == 'first' and image.key == '1' or 0 and len")


def test_what_a_killed_process_has_decoded_is_not_decoded_again(tmp_path):
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    command = [sys.executable, "-c", KILLED, str(meeting)]
    first = subprocess.Popen([*command, "first"])
    while not (tmp_path / "decoded 1 first").exists():  # the first part is written then
        assert first.poll() is None
        time.sleep(0.01)
    first.kill()
    first.wait()
    (left,) = entries(tmp_path / "cache")
    assert left.startswith(".parts-f-2-")
    done = subprocess.run([*command, "second"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str((1 + 2 + 3) * 12)
    assert entries(tmp_path / "cache") == ["f-2"]
    decoded = sorted(path.name for path in tmp_path.glob("decoded *"))
    assert decoded == ["decoded 0 first", "decoded 1 first", "decoded 1 second", "decoded 2 second"]


def test_a_part_that_was_torn_is_decoded_again(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "PART_BYTES", 1)
    images, crashed = some_images("x", "y", "z"), Reader()

    def crash(wanted, size):
        if len(crashed.decoded) == 2:
            raise KeyboardInterrupt
        yield from crashed(wanted, size)

    with pytest.raises(KeyboardInterrupt):
        get(tmp_path, images, crash)
    (parts,) = tmp_path.glob(".parts-*")
    pixels = np.load(parts / "entry" / "images.npy", mmap_mode="r+")
    pixels[0] = 77  # such as by a loss of power before the disk had it
    pixels.flush()
    read = Reader()
    found = get(tmp_path, images, read)
    assert sorted(read.decoded) == ["x", "z"]
    assert (found == np.stack([pixels_of(image, SIZE) for image in images])).all()
    assert [name for name in entries(tmp_path) if name.startswith(".")] == []


def test_parts_that_nobody_goes_on_with_are_removed_after_a_week(tmp_path):
    for name, days in (("old", 8), ("new", 1)):
        (tmp_path / f".parts-{name}").mkdir()
        then = time.time() - days * 86_400
        os.utime(tmp_path / f".parts-{name}", (then, then))
    get(tmp_path, some_images("x"), Reader())
    assert [name for name in entries(tmp_path) if name.startswith(".")] == [".parts-new"]


FULL = """
import sys
from pathlib import Path
import numpy as np
from bench.core.errors import DataError
from bench.data.cache import cached_images
from bench.data.dataset import Image

room = Path(sys.argv[1])

def read(images, size):
    with (room / "other").open("wb") as other:  # another process is faster
        try:
            other.write(bytes(2**22))
        except OSError:
            pass
    for _ in images:
        yield np.ones((size, size, 3), dtype=np.uint8)

images = [Image(str(n), "a", "train", f"{n:064x}") for n in range(100)]
try:
    cached_images(images, 32, read, cache_dir=room / "cache", fingerprint="f", version="v")
except DataError as error:
    print(error.message, error.place, error.hint, sep="|")
"""


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    try:
        mounted = subprocess.run(command, check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("only who may mount file systems has a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_others_fill_meanwhile_is_an_error_and_no_signal(small_disk):
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(small_disk)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    message, place, hint = done.stdout.strip().split("|")
    assert "No space left on device" in message
    assert place == str(small_disk / "cache" / "f-32")
    assert hint == "free some space, or choose another --results folder"
