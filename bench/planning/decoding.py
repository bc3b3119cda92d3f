"""How long the images that no run has decoded yet take: a few of them are decoded, and not kept.

As with steps, seconds are those of the processor, so that what else runs on the machine does not
move them. Workers decode in threads, and share what several of them want, so all cores are busy.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bench.core.errors import DataError
from bench.data.dataset import Image
from bench.data.files.files import decoding_threads, usable_cores
from bench.data.selection.images import Images
from bench.specs.data import DataSpec
from bench.specs.planned import PlannedRun

if TYPE_CHECKING:
    from bench.data.cache import Read

_MEASURED_S = 0.5
"""How long images of one kind are decoded at the most, beyond a first few."""
_SAMPLED = 256


class Selected(NamedTuple):
    """What is decoded together: a selection of a data set with a draw."""

    data: DataSpec
    draw: int


@dataclass(frozen=True)
class Decoding:
    """What is to be decoded before runs can train.

    Attributes:
        cpu_s: processor seconds by selection; images of several count for the first alone.
    """

    cpu_s: Mapping[Selected, float] = field(default_factory=dict)

    def seconds(self, runs: Iterable[PlannedRun], workers: int) -> float:
        """Wall-clock seconds for these runs, with so many workers."""
        wanted = {one for run in runs for one in _selections(run)}
        total = sum(self.cpu_s.get(one, 0.0) for one in wanted)
        return total / min(usable_cores(), decoding_threads() * workers)


@dataclass
class _Kind:
    """Images of one data set at one size, which are decoded alike."""

    read: Read
    size: int
    version: str
    jpeg: bool
    images: dict[Selected, Images] = field(default_factory=dict)


def measure_decoding(
    runs: Iterable[PlannedRun], *, data_root: Path | None, cache_dir: Path
) -> Decoding:
    """What these runs have to decode; where everything is in the cache nothing is measured.

    Args:
        runs: those whose images are missing are left out.
        data_root: folder of data sets.
        cache_dir: where decoded images are kept.
    """
    from bench.data.cache import uncached
    from bench.data.catalog import decodes_once

    if not decodes_once():
        return Decoding()
    cpu_s: dict[Selected, float] = {}
    for kind in _kinds(_not_cached(runs, cache_dir), data_root, cache_dir):
        every = Images.of(*kind.images.values())
        needed = uncached(
            every, kind.size, cache_dir=cache_dir, version=kind.version, jpeg=kind.jpeg
        )
        image_s = _image_s(every[needed], kind)
        ends = np.cumsum([len(images) for images in kind.images.values()])
        for one, own in zip(kind.images, np.split(needed, ends[:-1]), strict=True):
            cpu_s[one] = image_s * int(own.sum())
    return Decoding(cpu_s)


def _kinds(
    selections: Iterable[Selected], data_root: Path | None, cache_dir: Path
) -> Iterable[_Kind]:
    """The images of selections, those that are decoded alike together."""
    from bench.data.cache import is_cached
    from bench.data.catalog import open_dataset, resolve, shown

    kinds: dict[tuple[object, ...], _Kind] = {}
    for one in selections:
        data, jpeg = one.data, one.data.stored_as == "jpeg"
        found = resolve(data, one.draw, data_root=data_root, cache_dir=cache_dir)
        if is_cached(found.fingerprint, data.kept_size, cache_dir=cache_dir, jpeg=jpeg):
            continue
        dataset = open_dataset(
            data.dataset, data.root, data_root=data_root, cache_dir=cache_dir, options=data.options
        )
        images, read = shown(dataset, found.images, data)
        key = (data.dataset, data.root, data.options, bool(data.views), data.kept_size, jpeg)
        kind = kinds.setdefault(key, _Kind(read, data.kept_size, found.version, jpeg))
        kind.images[one] = images
    return kinds.values()


def _not_cached(runs: Iterable[PlannedRun], cache_dir: Path) -> Iterator[Selected]:
    """The selections of runs, each once, that have no entry of their own in the cache."""
    from bench.data.cache import is_cached

    fingerprints: dict[Selected, str] = {}
    for run in runs:
        if run.facts.missing:
            continue
        own, *borrowed = _selections(run)
        whole = run.spec.evaluate is None and not borrowed  # else it is of more than this selection
        fingerprints[own] = run.facts.fingerprint if whole else fingerprints.get(own, "")
        for one, facts in zip(borrowed, run.facts.borrowed, strict=True):
            fingerprints[one] = facts.fingerprint
    for one, fingerprint in fingerprints.items():
        size, jpeg = one.data.kept_size, one.data.stored_as == "jpeg"
        if not fingerprint or not is_cached(fingerprint, size, cache_dir=cache_dir, jpeg=jpeg):
            yield one


def _selections(run: PlannedRun) -> list[Selected]:
    """Of the run's own images, and of those that it borrows."""
    spec = run.spec
    own = Selected(spec.data, spec.seeds.draw)
    return [own, *(Selected(borrowed.data, borrowed.draw) for borrowed in spec.borrow)]


def _image_s(images: Sequence[Image], kind: _Kind) -> float:
    """Processor seconds of an image, of some that lie evenly among all."""
    if not images:
        return 0.0
    places = np.unique(np.linspace(0, len(images) - 1, _SAMPLED).astype(int))
    rest = iter(np.random.default_rng(0).permutation(places).tolist())
    block, counted, spent_s = decoding_threads(), 0, 0.0
    begun = time.monotonic()
    try:
        list(kind.read([images[0]], kind.size))  # the first time libraries are loaded
        while some := [images[place] for place in islice(rest, block)]:
            before = time.process_time()
            counted += len(list(kind.read(some, kind.size)))
            spent_s += time.process_time() - before
            if time.monotonic() - begun > _MEASURED_S:
                break
    except DataError:  # the run will say which image it is, and why
        return 0.0
    return spent_s / counted
