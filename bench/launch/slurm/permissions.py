"""Which code a job runs, and in which folder it may trust what it reads."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import struct
from pathlib import Path
from shlex import quote

from bench.core.errors import StoreError
from bench.core.text import listed


def code_digest(package: Path | None = None) -> str:
    """SHA-256 over the names and contents of the package's source and table files.

    Args:
        package: a folder; by default that of `bench` itself, wherever it is installed.
    """
    root = package or Path(__file__).parents[2]
    digest = hashlib.sha256()
    files = [path for path in root.rglob("*") if path.suffix in (".py", ".csv")]
    for path in sorted(files, key=lambda path: path.relative_to(root).as_posix()):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(root).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def make_private(folder: Path) -> Path:
    """Creates a folder that only its owner can enter, and checks the way to it.

    Raises:
        StoreError: as `check_private`.
    """
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    check_private(folder)
    return folder


def check_private(folder: Path) -> None:
    """Refuses a folder of job payloads that somebody else could write or exchange.

    A job executes what lies there. The folder is to belong to this user and to be closed to all
    others; each folder above it belongs to this user or root and is not writable by others, unless
    sticky as /tmp is.

    Raises:
        StoreError: with the folder that is at fault and the command that mends it.
    """
    folder = folder.resolve()
    found = folder.stat()
    if found.st_uid != os.geteuid():
        raise StoreError(
            f"belongs to user {found.st_uid}, not to you", place=str(folder), hint="use your own"
        )
    if found.st_mode & 0o077:
        raise StoreError(
            f"others may enter it (mode {stat.S_IMODE(found.st_mode):o})",
            place=str(folder),
            hint=f"chmod 700 {quote(str(folder))}",
        )
    _check_nfs4(folder)
    for parent in folder.parents:
        found = parent.stat()
        if found.st_uid not in (os.geteuid(), 0):
            raise StoreError(
                f"belongs to user {found.st_uid}, who could exchange what jobs execute",
                place=str(parent),
                hint="keep results in a folder of your own: --results FOLDER",
            )
        if named := _named_writers(parent):
            raise StoreError(
                f"its access control list lets {named} write here and exchange what jobs execute",
                place=str(parent),
                hint=f"setfacl -b {quote(str(parent))}, or keep results elsewhere: "
                "--results FOLDER",
            )
        _check_nfs4(parent)
        shared = found.st_mode & (stat.S_IWOTH | stat.S_IWGRP)
        if found.st_mode & stat.S_IWGRP and _own_group(found.st_gid):
            shared &= ~stat.S_IWGRP
        if shared and not found.st_mode & stat.S_ISVTX:
            raise StoreError(
                f"others may write here (mode {stat.S_IMODE(found.st_mode):o}) and so exchange "
                "what jobs execute",
                place=str(parent),
                hint=f"chmod go-w {quote(str(parent))}, or keep results elsewhere: "
                "--results FOLDER",
            )


_ACL = "system.posix_acl_access"
_USER, _GROUP, _MASK, _WRITE = 0x02, 0x08, 0x10, 0o2


def _named_writers(folder: Path) -> str:
    """Others than owner and owning group who may write by an access control list, in words.

    Where a folder has such a list, the group bits of its mode are the list's mask: the most that
    anybody named in it may do, not what the owning group may.
    """
    try:
        raw = os.getxattr(folder, _ACL)
    except OSError:  # no list, or no such lists on this file system
        return ""
    entries = list(struct.iter_unpack("<HHI", raw[4 : 4 + (len(raw) - 4) // 8 * 8]))
    mask = next((allowed for tag, allowed, _ in entries if tag == _MASK), 0o7)
    own = {(_USER, os.geteuid()), (_USER, 0), (_GROUP, 0)}
    named = [
        f"{'user' if tag == _USER else 'group'} {number}"
        for tag, allowed, number in entries
        if tag in (_USER, _GROUP) and allowed & mask & _WRITE and (tag, number) not in own
    ]
    return listed(named)


_NFS4_ACL = "system.nfs4_acl"
_ALLOW, _INHERITED_ONLY, _IS_GROUP = 0, 0x8, 0x40
_ADD_FILE, _DELETE_CHILD, _WRITE_ACL, _WRITE_OWNER = 0x2, 0x40, 0x40000, 0x80000
_CHANGES = _ADD_FILE | _DELETE_CHILD | _WRITE_ACL | _WRITE_OWNER


def _check_nfs4(folder: Path) -> None:
    """Refuses a folder whose NFSv4 access control list lets others change what lies in it.

    Raises:
        StoreError: it does, or cannot be read.
    """
    try:
        raw = os.getxattr(folder, _NFS4_ACL)
    except OSError:  # no list, or no such lists on this file system
        return
    shown = quote(str(folder))
    elsewhere = "or keep results elsewhere: --results FOLDER"
    try:
        writers = _nfs4_writers(raw)
    except (struct.error, ValueError):
        raise StoreError(
            "its NFSv4 access control list cannot be read, so it is not known who else may write",
            place=str(folder),
            hint=f"nfs4_getfacl {shown} may show it; {elsewhere}",
        ) from None
    if writers:
        raise StoreError(
            f"its NFSv4 access control list lets {listed(writers)} change what lies here, and so "
            "exchange what jobs execute",
            place=str(folder),
            hint=f"nfs4_setfacl -e {shown} edits the list, {elsewhere}",
        )


def _nfs4_writers(raw: bytes) -> list[str]:
    """Others than the owner and root who are allowed to change a folder, in words.

    The list is in XDR (RFC 7530, 6.2.1): a count, and for each entry type, flags, mask and name.
    What is denied is not subtracted. OWNER@, GROUP@ and EVERYONE@ count by what a mode cannot show:
    the right to add files is one of its bits.

    Raises:
        ValueError, struct.error: these are not the bytes of such a list.
    """
    (count,), place, found = struct.unpack_from(">I", raw), 4, []
    for _ in range(count):
        kind, flags, mask, size = struct.unpack_from(">4I", raw, place)
        name = raw[place + 16 : place + 16 + size].decode()
        place += 16 + size + -size % 4
        if kind != _ALLOW or flags & _INHERITED_ONLY or not mask & _CHANGES or _is_own(name, flags):
            continue
        hidden = mask & (_WRITE_ACL | _WRITE_OWNER) or not mask & _ADD_FILE
        if not name.endswith("@") or hidden:
            found.append(f"{'group' if flags & _IS_GROUP else 'user'} {name}")
    if place != len(raw):
        raise ValueError(f"{len(raw)} bytes, of which the entries take {place}")
    return found


def _is_own(name: str, flags: int) -> bool:
    """Whether an entry is about the owner, root or this user."""
    import pwd

    if name == "OWNER@":
        return True
    plain = name.partition("@")[0]
    if flags & _IS_GROUP:
        return False
    own = {"root", "0", str(os.geteuid())}
    with contextlib.suppress(KeyError):
        own.add(pwd.getpwuid(os.geteuid()).pw_name)
    return bool(plain) and plain in own


def _own_group(gid: int) -> bool:
    """Whether a group is this user's private one: of the same name, with no other members."""
    import grp
    import pwd

    try:
        group, user = grp.getgrgid(gid), pwd.getpwuid(os.geteuid())
    except KeyError:
        return False
    return group.gr_name == user.pw_name and not set(group.gr_mem) - {user.pw_name}
