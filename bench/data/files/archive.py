"""The members of tar archives, read without extracting anything.

An archive with a name that leads outside, with links or with devices is refused as a whole.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from bench.core.errors import DataError
from bench.data.files.files import placeholder

MAX_MEMBERS = 5_000_000
MAX_MEMBER_BYTES = 256 * 2**20
MAX_HEADER_BYTES = 2**20
"""Of what stands before a member: its long name, its pax header."""
MAX_BLOCKS_AFTER_END = 64
"""Mebibytes of padding; a few kilobytes are usual."""
_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_WAY_OUT = "make the archive anew from the data set's folder: tar -czf data.tar.gz FOLDER"
_LINKS = (
    "make the archive anew with what the links lead to: "
    "tar --dereference --hard-dereference -czf data.tar.gz FOLDER"
)


def is_archive(path: Path) -> bool:
    """Whether the name is that of a tar archive that we read."""
    return path.name.lower().endswith(_SUFFIXES)


def is_plain(path: Path) -> bool:
    """Whether it is a tar without compression, whose members can be read where they lie."""
    try:
        with tarfile.open(path, "r:", tarinfo=_Member):
            return True
    except (tarfile.TarError, OSError):
        return False


@contextmanager
def archive_errors(path: Path) -> Iterator[None]:
    """Turns what the readers of archives raise on torn and hostile ones into an error with advice.

    They raise anything: zlib's and lzma's errors, RecursionError for long names of long names,
    NotImplementedError for methods of compression.
    """
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        with path.open("rb") as file:
            instead = placeholder(file.read(1024))
        if instead is not None:
            raise DataError(f"the archive is {instead}", place=str(path)) from None
        raise DataError(
            f"the archive cannot be read to its end ({error})",
            place=str(path),
            hint="it may be incomplete: compare its size with the original, or copy it again; "
            "archives are tar, perhaps with gzip, bzip2 or xz, or zip with deflate",
        ) from error


class _Member(tarfile.TarInfo):
    """A member whose header is bounded: tarfile would read it into memory whatever its size."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo | None:
        headers = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
        long_names = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
        if self.type in (*headers, *long_names) and self.size > MAX_HEADER_BYTES:
            raise DataError(
                f"refused: a header of {self.size:,} bytes, more than the limit of "
                f"{MAX_HEADER_BYTES:,}; nothing was extracted",
                place=str(archive.name),
                hint=_WAY_OUT,
            )
        found: tarfile.TarInfo | None = super()._proc_member(archive)  # type: ignore[misc]
        return found


Member = tuple[str, int, int, Callable[[], bytes]]


def members(
    path: Path, *, span: tuple[int, int] | None = None, limit: int | None = None
) -> Iterator[Member]:
    """Name, offset of the data, size in bytes and a reader of every visible file, in its order.

    Args:
        path: a tar archive.
        span: offset and size of an archive that lies in it, to be read in its place.
        limit: of the size of a member; None is `MAX_MEMBER_BYTES`.
    """
    with path.open("rb") as inside, _opened(path, inside, span) as archive:
        for count, member in enumerate(archive):
            special = member.issparse() or not (member.isreg() or member.isdir())
            name = safe_name(path, member.name, member.size, special=special, limit=limit)
            if count >= MAX_MEMBERS:
                raise DataError(f"more than {MAX_MEMBERS} members", place=str(path))
            hidden = any(part.startswith(".") for part in name.split("/"))
            if member.isreg() and not hidden:
                yield name, member.offset_data, member.size, _reader(archive, member)
        _check_end(archive, span)


def _opened(path: Path, inside: IO[bytes], span: tuple[int, int] | None) -> tarfile.TarFile:
    if span is None:
        return tarfile.open(path, tarinfo=_Member)
    inside.seek(span[0])
    return tarfile.open(fileobj=inside, mode="r:", tarinfo=_Member)


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
        for _ in range(MAX_BLOCKS_AFTER_END):
            if not archive.fileobj.read(2**20):  # a compressed stream ends with its own checksum
                return
        raise EOFError(f"{MAX_BLOCKS_AFTER_END} MiB follow its end mark")


def safe_name(path: Path, name: str, size: int, *, special: bool, limit: int | None = None) -> str:
    """A member's posix name without `./`, of any kind of archive.

    Args:
        path: the archive, for messages.
        name: of the member.
        size: bytes of its content.
        special: it is neither a file nor a folder.
        limit: of its size; None is `MAX_MEMBER_BYTES`.

    Raises:
        DataError: for special files, large ones, and names that are absolute or lead upwards.
    """
    most = MAX_MEMBER_BYTES if limit is None else limit
    parts = name.split("/")
    wrong = None
    if name.startswith("/") or ":" in name.partition("/")[0]:
        wrong = "has an absolute name"
    elif ".." in parts or "\\" in name or "\0" in name or "\n" in name:
        wrong = "has a name that leads outside or is no plain path"
    elif special:
        wrong = "is a link, a device or another special file"
    elif size > most:
        wrong = f"has {size} bytes, more than the limit of {most}"
    else:
        try:
            name.encode()
        except UnicodeEncodeError:
            wrong = "has a name that is not UTF-8"
    if wrong is not None:
        raise DataError(
            f"refused: member {name[:200]!r} {wrong}; nothing was extracted",
            place=str(path),
            hint=_LINKS if special else _WAY_OUT,
        )
    return "/".join(part for part in parts if part not in ("", "."))
