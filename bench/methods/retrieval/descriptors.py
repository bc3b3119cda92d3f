"""Descriptors of all images of a domain, kept on disk by what they were made from.

A file's name is a hash of the bank, the bin edges and the images: targets that share edges share
the descriptors of a source, and those that do not may share its responses
(`bench.methods.retrieval.responses`, which bounds both); nothing has to be invalidated. A file is
complete or absent, and is checked when it is opened: each filter's counts must add up to its number
of places.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import os
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from bench.core.errors import DataError
from bench.core.files import reserve, temporary_beside, write_atomic
from bench.methods.retrieval.filter_banks import Bank, Group
from bench.methods.retrieval.histograms import (
    BATCH_SIZE,
    Counts,
    Edges,
    counts_dtype,
    describe_blocks,
    images_of_a_pass,
    learn_edges,
)
from bench.methods.retrieval.responses import (
    are_sorted,
    describe_sorted,
    fill_sorted,
    make_room,
    most_bytes,
    open_mapped,
    sorted_mib,
)
from bench.training.domain import Domain

Kept = TypeVar("Kept")
_CHECKED_ROWS = 64


@dataclass(frozen=True, eq=False)
class Descriptors:
    """Histograms of N images.

    Attributes:
        counts: (N, filters x bins), in memory or mapped from a file.
        groups: the filters, as in the bank.
        bins: bins of each filter.
        key: hash of what they were made from.
    """

    counts: Counts
    groups: tuple[Group, ...]
    bins: int
    key: str

    @property
    def size(self) -> int:
        """The number of images."""
        return len(self.counts)

    def per_filter(self, value: Callable[[Group], float]) -> NDArray[np.float64]:
        """`value` of each column's group, float64 (filters x bins,)."""
        repeats = [group.filters * self.bins for group in self.groups]
        return np.repeat([float(value(group)) for group in self.groups], repeats)

    def histograms(self, rows: slice | NDArray[np.int64] = slice(None)) -> NDArray[np.float64]:
        """Shares (n, filters x bins); each filter's part sums to 1."""
        shares: NDArray[np.float64] = self.counts[rows] / self.per_filter(lambda g: g.places)
        return shares


def content_key(data: Domain) -> str:
    """A hash of a domain's pixels and normalisation; names and labels play no part."""
    return hash_of("content 2", data.images_sha256, f"{data.mean}|{data.std}")


def identity_of(bank: Bank) -> str:
    """What responses depend on besides the images, with the size of passes where it is not usual:
    it can move their last bits."""
    size = images_of_a_pass()
    return bank.identity if size == BATCH_SIZE else f"{bank.identity}|passes of {size}"


def edges_of(
    bank: Bank,
    target: Domain,
    bins: int,
    *,
    memory_mib: int = 1024,
    cache: Path | None = None,
) -> tuple[Edges, str]:
    """`learn_edges`, remembered below `cache` for the same bank and images."""
    if cache is None:
        return learn_edges(bank, target, bins, memory_mib=memory_mib)
    key = hash_of("edges 1", identity_of(bank), str(bins), content_key(target), str(memory_mib))
    path = cache / f"edges-{key}.npz"
    filters = sum(group.filters for group in bank.groups)
    found = read_arrays(path, "edges", "how")
    if found is not None and found["edges"].shape == (filters, bins + 1):
        return found["edges"], str(found["how"])
    edges, how = learn_edges(bank, target, bins, memory_mib=memory_mib)
    write_arrays(path, edges=edges, how=np.array(how))
    return edges, how


def describe(
    bank: Bank,
    data: Domain,
    edges: Edges,
    *,
    cache: Path | None = None,
    responses_mib: int = 0,
) -> Descriptors:
    """Descriptors of all images of `data`.

    Args:
        edges: bins of each filter, from the target.
        cache: folder to keep them in; None computes them in memory.
        responses_mib: with a cache, the responses themselves are kept too if they take no more,
            for targets with other edges (`bench.methods.retrieval.responses`).

    Raises:
        DataError: no image, edges of another bank, or a folder that cannot be written.
    """
    if not data.size:
        raise DataError(f"domain {data.name!r} has no image to describe")
    bins = edges.shape[1] - 1
    content = content_key(data)
    key = hash_of("descriptors 1", identity_of(bank), edges.tobytes().hex(), content)
    shape = (data.size, len(edges) * bins)
    kind = counts_dtype(bank.groups)
    if cache is None:
        counts: Counts = np.empty(shape, kind)
        _fill(counts, describe_blocks(bank, data, edges))
        return Descriptors(counts, bank.groups, bins, key)
    path = cache / f"descriptors-{key}.npy"

    def fill(counts: Counts) -> None:
        _fill(counts, _blocks(bank, data, edges, content, cache, responses_mib))

    def build() -> None:
        most = most_bytes()
        _build(path, shape, kind, fill, data.name)
        make_room(cache, 0, most)

    found = _kept(lambda: _open(path, shape, kind, bank.groups, bins, key), build, path)
    with contextlib.suppress(OSError):  # where the cache cannot be written
        os.utime(path)
    return found


def _blocks(
    bank: Bank, data: Domain, edges: Edges, content: str, cache: Path, responses_mib: int
) -> Iterator[tuple[int, Counts]]:
    """From the responses that are kept, or kept from now on; else from the images."""
    wanted_mib, most = sorted_mib(bank, data), most_bytes()
    if wanted_mib <= responses_mib and wanted_mib * 2**20 <= most:
        path = cache / f"responses-{hash_of('responses 1', identity_of(bank), content)}.npy"
        if not are_sorted(path, bank, data):
            path.unlink(missing_ok=True)
            make_room(cache, math.ceil(wanted_mib * 2**20), most)
            shape = (data.size, sum(group.responses for group in bank.groups))
            kind = np.dtype(np.float32)
            _build(path, shape, kind, lambda x: fill_sorted(x, bank, data), data.name)
        with contextlib.suppress(OSError):  # another process may remove it, to make room
            os.utime(path)
            yield from describe_sorted(bank.groups, path, data.size, edges)
            return
    yield from describe_blocks(bank, data, edges)


def _kept(read: Callable[[], Kept | None], build: Callable[[], None], path: Path) -> Kept:
    """What `read` finds in a file, which `build` writes if it is not there or not whole."""
    found = read()
    if found is None:
        build()
        found = read()
    if found is None:
        raise DataError("the file just written does not verify", place=str(path))
    return found


def _fill(counts: Counts, blocks: Iterator[tuple[int, Counts]]) -> None:
    for start, block in blocks:
        counts[start : start + len(block)] = block


def _open(
    path: Path,
    shape: tuple[int, int],
    kind: np.dtype[np.uint16] | np.dtype[np.uint32],
    groups: tuple[Group, ...],
    bins: int,
    key: str,
) -> Descriptors | None:
    """What the file holds, when it is whole: shape, type, and the sums of some rows."""
    counts = open_mapped(path, shape, kind)
    if counts is None:
        return None
    found = Descriptors(counts, groups, bins, key)
    rows = np.unique(np.linspace(0, shape[0] - 1, _CHECKED_ROWS).astype(int))
    sums = counts[rows].reshape(len(rows), -1, bins).sum(2, dtype=np.int64)
    places = found.per_filter(lambda group: group.places)[::bins]
    return found if bool((sums == places).all()) else None


def _build(
    path: Path,
    shape: tuple[int, int],
    kind: np.dtype[Any],
    fill: Callable[[Any], None],
    name: str,
) -> None:
    """A file of `shape` that `fill` fills; it is there as a whole or not at all."""
    temporary = temporary_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        array = np.lib.format.open_memmap(temporary, mode="w+", dtype=kind, shape=shape)
        reserve(temporary)
        fill(array)
        array.flush()
        del array
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise DataError(
            f"descriptors of {name!r} cannot be kept ({error})",
            place=str(path),
            hint=f"they take {shape[0] * shape[1] * kind.itemsize / 2**30:.1f} GiB: free some "
            "space, choose another results folder, fewer layers or bins, or responses_mib: 0",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_arrays(path: Path, **arrays: NDArray[Any]) -> None:
    """An `.npz` file that is there as a whole or not at all."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    write_atomic(path, buffer.getvalue())


def read_arrays(path: Path, *names: str) -> dict[str, NDArray[Any]] | None:
    """The arrays of an `.npz` file; None when it is not there or not whole."""
    try:
        # From memory: a file that is torn would else be left open.
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            return {name: file[name] for name in names}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def hash_of(*parts: str) -> str:
    """A name made of 32 hexadecimal digits, the same for the same parts."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
