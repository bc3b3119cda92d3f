"""Which images a run is verified on: of classes that no training has shown it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.core.errors import DataError, nearest
from bench.core.text import some
from bench.data.catalog import Loaded, Resolved, fingerprint, load_parts, open_dataset, resolve
from bench.data.dataset import Dataset, Image, rank
from bench.data.selection.images import Images
from bench.data.selection.splits import Splits
from bench.data.transforms.views import allowed_by, views_fingerprint
from bench.specs.evaluation import VerificationSpec
from bench.specs.run import RunSpec, joint_fingerprint


@dataclass(frozen=True)
class TestIdentities:
    """Identities and their images, in order; the fingerprint is of both."""

    __test__ = False  # no test of pytest's

    identities: tuple[str, ...]
    images: Images
    fingerprint: str

    @property
    def pairs(self) -> tuple[int, int]:
        """Genuine and impostor pairs of images."""
        counts = np.bincount(self.images.labels_in(self.identities))
        genuine = int((counts * (counts - 1) // 2).sum())
        return genuine, len(self.images) * (len(self.images) - 1) // 2 - genuine


def with_identities(spec: RunSpec, own: str, *, data_root: Path | None, cache_dir: Path) -> str:
    """The fingerprint of a run's images and of those it is verified on; `own` if there are none."""
    if spec.evaluate is None:
        return own
    found = resolve_identities(spec, data_root=data_root, cache_dir=cache_dir)
    return joint_fingerprint(own, [found.fingerprint])


def resolve_identities(spec: RunSpec, *, data_root: Path | None, cache_dir: Path) -> TestIdentities:
    """The images that a run with `evaluate: verification` is verified on; nothing is decoded.

    Raises:
        DataError: an identity that is unknown or was trained on, too few of them, or no genuine or
            no impostor pair among their images.
    """
    assert spec.evaluate is not None
    places = {"data_root": data_root, "cache_dir": cache_dir}
    data, wanted = spec.data, spec.evaluate.verification
    dataset = open_dataset(data.dataset, data.root, options=data.options, **places)  # type: ignore[arg-type]
    shown = [resolve(data, spec.seeds.draw, **places)]  # type: ignore[arg-type]
    for run in (spec, *spec.ancestors()):
        shown += [resolve(b.data, b.draw, **places) for b in run.borrow]  # type: ignore[arg-type]
    for run in spec.ancestors():
        shown.append(resolve(run.data, run.seeds.draw, **places))  # type: ignore[arg-type]
    identities = _identities(wanted, dataset, shown)
    allowed = allowed_by(dataset, wanted.where)
    most = wanted.images_per_identity
    images = Images.of(
        *(_images(dataset, name, most, allowed, data.on_corrupt) for name in identities)
    )
    same = images[images.shared_with(*(part.train + part.val for part in shown))].keys
    if same:
        raise DataError(
            f"{len(same)} images to verify on are among the training images: {some(same)}",
            hint="the same file stands under two identities: remove one",
        )
    plain = fingerprint(dataset, identities, (), (), images)
    splits = Splits(identities, images[:0], images[:0], images, {})
    found = TestIdentities(
        identities, images, views_fingerprint(dataset, plain, splits, data.views)
    )
    for kind, count in zip(("genuine", "impostor"), found.pairs, strict=True):
        if not count:
            raise DataError(
                f"verification: {len(images)} images of {len(identities)} identities give no "
                f"{kind} pair",
                hint="test on at least two identities with images, and two images of one of them",
            )
    return found


def _identities(
    wanted: VerificationSpec, dataset: Dataset, shown: Sequence[Resolved]
) -> tuple[str, ...]:
    """Classes that no training has shown, sorted."""
    target, *others = shown
    seen = set(target.classes)
    for other in others:
        same_names = other.dataset_fingerprint == target.dataset_fingerprint
        if same_names or (other.wnid_keyed and target.wnid_keyed):
            seen |= set(other.classes)
    free = [name for name in dataset.classes if name not in seen]
    who = wanted.identities
    if isinstance(who, tuple):
        for name in who:
            if name not in dataset.classes:
                known = nearest(name, free)
                raise DataError(f"there is no identity {name!r}", hint=f"not trained on: {known}")
            if name in seen:
                raise DataError(
                    f"identity {name!r} is to be verified on, but it is trained on",
                    hint=f"not trained on: {nearest(name, free)}",
                )
        return tuple(sorted(set(who)))
    count = len(free) if who is None else who
    if count > len(free) or len(free) < 2:
        raise DataError(
            f"verification needs {max(2, count)} identities that are not trained on, and "
            f"{data_set(dataset)} has {len(free)} besides the {len(seen)} of target and sources",
            hint="train on fewer classes, for example classes: {recipe: random, n: …}",
        )
    ranked = sorted(free, key=lambda name: rank(f"identities|{wanted.identity_draw}|{name}"))
    return tuple(sorted(ranked[:count]))


def data_set(dataset: Dataset) -> str:
    """For a message."""
    return f"data set {dataset.name!r}"


def _images(
    dataset: Dataset,
    name: str,
    most: int | None,
    allowed: object,
    on_corrupt: str,
) -> Sequence[Image]:
    corrupt = dataset.unreadable(name) if on_corrupt == "skip" else {}
    kept = [
        image
        for image in dataset.images_of(name)
        if image.key not in corrupt and (not callable(allowed) or allowed(image))
    ]
    return sorted(kept, key=lambda image: rank(f"verification|{image.key}"))[:most]


def load_identities(
    found: TestIdentities, spec: RunSpec, *, data_root: Path | None, cache_dir: Path
) -> Loaded:
    """Their pixels; all are rows of `test`, and classes are identities."""
    return load_parts(
        spec.data,
        ((), (), found.images),
        found.identities,
        found.fingerprint,
        data_root=data_root,
        cache_dir=cache_dir,
        notes={},
    )
