"""Images in a tar archive, read without extracting anything.

One pass reads names and hashes. No file of the archive is ever created: of a compressed archive the
image bytes are packed one after the other into a single file of the cache, because a compressed
stream cannot be read at a place; a plain tar is read where it lies. An archive with a name that
leads outside, with links or with devices is refused as a whole.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import secrets
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from bench.core.errors import DataError
from bench.data.files.files import Files, is_image, load_table, store_table, table_path

MAX_MEMBERS = 5_000_000
MAX_MEMBER_BYTES = 256 * 2**20
_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_WAY_OUT = "make the archive anew from the data set's folder: tar -czf data.tar.gz FOLDER"


def is_archive(path: Path) -> bool:
    """Whether the name is that of a tar archive that we read."""
    return path.name.lower().endswith(_SUFFIXES)


def archive_files(path: Path, cache_dir: Path, *, texts: frozenset[str] = frozenset()) -> Files:
    """The image files of an archive; a single folder around all of them is no part of their names.

    Args:
        path: a tar archive, compressed or not.
        cache_dir: the table, and the packed bytes of a compressed archive, are kept below it.
        texts: names (without folder) of the text files that the layout needs.

    Raises:
        DataError: naming the member, for an archive that is torn or not safe.
    """
    info = path.stat()
    signature = hashlib.sha256(f"{info.st_size}|{info.st_mtime_ns}".encode()).hexdigest()
    stored = table_path(cache_dir, str(path.resolve()), signature)
    plain = is_plain(path)
    blob = path if plain else stored.with_suffix(".pack")
    known = load_table(stored, path, blob)
    if known is not None:
        return known
    with archive_errors(path):
        found = _index(path, path, texts, None) if plain else _packed(path, blob, texts)
    store_table(stored, found)
    return found


def is_plain(path: Path) -> bool:
    """Whether it is a tar without compression, whose members can be read where they lie."""
    try:
        with tarfile.open(path, "r:"):
            return True
    except (tarfile.TarError, OSError):
        return False


def _packed(path: Path, blob: Path, texts: frozenset[str]) -> Files:
    blob.parent.mkdir(parents=True, exist_ok=True)
    temporary = blob.with_name(f".{blob.name}.{secrets.token_hex(6)}.tmp")
    try:
        with temporary.open("wb") as pack:
            found = _index(path, blob, texts, pack)
            pack.flush()
            os.fsync(pack.fileno())
        temporary.replace(blob)
    finally:
        temporary.unlink(missing_ok=True)
    return found


def _index(path: Path, blob: Path, texts: frozenset[str], pack: IO[bytes] | None) -> Files:
    rows: dict[str, tuple[str, tuple[int, int]]] = {}
    read_texts: dict[str, str] = {}
    others: list[str] = []
    for name, offset, _, read in members(path, limit=MAX_MEMBER_BYTES):
        if name in rows or name in read_texts:
            raise DataError(f"member {name!r} is there twice", place=str(path), hint=_WAY_OUT)
        if is_image(name):
            data = read()
            at = offset if pack is None else pack.tell()
            if pack is not None:
                pack.write(data)
            rows[name] = hashlib.sha256(data).hexdigest(), (at, len(data))
        elif name.rpartition("/")[2] in texts:
            read_texts[name] = read().decode("utf-8", "replace")
        else:
            others.append(name)
    skip = len(_shared_folder([*rows, *read_texts, *others]))
    ordered = sorted(rows)
    return Files(
        place=path,
        sha256={name[skip:]: rows[name][0] for name in ordered},
        texts={name[skip:]: text for name, text in read_texts.items()},
        others=len(others),
        blob=blob,
        spans={name[skip:]: rows[name][1] for name in ordered},
    )


@contextmanager
def archive_errors(path: Path) -> Iterator[None]:
    """Turns what the readers of archives raise on torn ones into an error with advice."""
    try:
        yield
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        EOFError,
        OSError,
        zlib.error,
        lzma.LZMAError,
    ) as error:
        raise DataError(
            f"the archive cannot be read to its end ({error})",
            place=str(path),
            hint="it may be incomplete: compare its size with the original, or copy it again",
        ) from error


Member = tuple[str, int, int, Callable[[], bytes]]


def members(
    path: Path, *, span: tuple[int, int] | None = None, limit: int = MAX_MEMBER_BYTES
) -> Iterator[Member]:
    """Name, offset of the data, size in bytes and a reader of every visible file, in its order.

    Args:
        path: a tar archive.
        span: offset and size of an archive that lies in it, to be read in its place.
        limit: of the size of a member.
    """
    with path.open("rb") as inside, _opened(path, inside, span) as archive:
        for count, member in enumerate(archive):
            name = _safe_name(path, member, limit)
            if count >= MAX_MEMBERS:
                raise DataError(f"more than {MAX_MEMBERS} members", place=str(path))
            hidden = any(part.startswith(".") for part in name.split("/"))
            if member.isreg() and not hidden:
                yield name, member.offset_data, member.size, _reader(archive, member)
        _check_end(archive, span)


def _opened(path: Path, inside: IO[bytes], span: tuple[int, int] | None) -> tarfile.TarFile:
    if span is None:
        return tarfile.open(path)
    inside.seek(span[0])
    return tarfile.open(fileobj=inside, mode="r:")


def _reader(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Callable[[], bytes]:
    def read() -> bytes:
        file = archive.extractfile(member)
        data = file.read() if file is not None else b""
        if len(data) != member.size:
            raise EOFError(f"member {member.name!r} ends early")
        return data

    return read


def _check_end(archive: tarfile.TarFile, span: tuple[int, int] | None) -> None:
    """tarfile takes a damaged header for the end; the true end is a block of zeros."""
    if archive.fileobj is not None:
        archive.fileobj.seek(archive.offset)
        if archive.fileobj.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
            raise EOFError("it has no end mark")
        if span is not None:
            if archive.offset > sum(span):
                raise EOFError("an archive in it has no end mark")
            return
        while archive.fileobj.read(2**20):  # a compressed stream ends with its own checksum
            pass


def _safe_name(path: Path, member: tarfile.TarInfo, limit: int) -> str:
    """The member's posix name without `./`; see `safe_name`."""
    special = member.issparse() or not (member.isreg() or member.isdir())
    return safe_name(path, member.name, member.size, special=special, limit=limit)


def safe_name(
    path: Path, name: str, size: int, *, special: bool, limit: int = MAX_MEMBER_BYTES
) -> str:
    """A member's posix name without `./`, of any kind of archive.

    Args:
        path: the archive, for messages.
        size: bytes of its content.
        special: it is neither a file nor a folder.

    Raises:
        DataError: for special files, large ones, and names that are absolute or lead upwards.
    """
    parts = name.split("/")
    wrong = None
    if name.startswith("/") or ":" in name.partition("/")[0]:
        wrong = "has an absolute name"
    elif ".." in parts or "\\" in name or "\0" in name or "\n" in name:
        wrong = "has a name that leads outside or is no plain path"
    elif special:
        wrong = "is a link, a device or another special file"
    elif size > limit:
        wrong = f"has {size} bytes, more than the limit of {limit}"
    else:
        try:
            name.encode()
        except UnicodeEncodeError:
            wrong = "has a name that is not UTF-8"
    if wrong is not None:
        raise DataError(
            f"refused: member {name!r} {wrong}; nothing was extracted",
            place=str(path),
            hint=_WAY_OUT,
        )
    return "/".join(part for part in parts if part not in ("", "."))


def _shared_folder(names: list[str]) -> str:
    """The one folder that all names begin with, with its slash, or nothing."""
    tops = {name.partition("/")[0] for name in names}
    top = next(iter(tops), "")
    return f"{top}/" if len(tops) == 1 and all("/" in name for name in names) else ""
