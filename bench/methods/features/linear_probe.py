"""A classifier on features of a network that is not trained: what SVMs and probes share.

LI §4.3 and §4.3.2, SFT §3.1. The features are those of one layer, of whole images and, with
`parts`, of random parts of the training images. C is chosen on the validation images; the
classifier is then the one that was fitted to the training images alone, or with `train.refit` one
that is fitted anew, with that C, to training and validation images together.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.core.errors import ModelError
from bench.core.files import reserve, temporary_beside
from bench.data.transforms.augment import Scale
from bench.methods.features.cost import most_iterations
from bench.methods.features.kept import LEAST_S, KeptFeatures
from bench.methods.features.memo import MEMO
from bench.methods.features.solvers import Blocks, Linear, Loss, fit_in_memory, fit_streaming
from bench.methods.features.task import FeatureTask, Fitted
from bench.methods.options import FeatureOptions
from bench.models.domains import Trunk, classifier_name
from bench.models.heads import side_by_side
from bench.training import evaluation as evaluate
from bench.training.domain import Domain
from bench.training.domain_batches import BASE_COLUMNS, Feed, FeedOptions, Shown, even_passes
from bench.training.features import LayerTap, Stage
from bench.training.job import Outcome, Row
from bench.training.process import peak_memory_bytes


class FeatureModel(nn.Module):
    """Normalised images (n, 3, S, S) to scores (n, C) of a linear classifier on features (n, D)."""

    def __init__(
        self, features: Callable[[Tensor], Tensor], linear: Linear, normalise: bool
    ) -> None:
        super().__init__()
        self._features, self.normalise = features, normalise
        self.probe = nn.Linear(linear.weight.shape[1], linear.weight.shape[0])
        with torch.no_grad():
            self.probe.weight.copy_(torch.from_numpy(linear.weight))
            self.probe.bias.copy_(torch.from_numpy(linear.bias))

    def forward(self, images: Tensor) -> Tensor:
        """Scores; the network runs in evaluation mode and without gradients."""
        features = _normalised(self._features(images), self.normalise)
        scores: Tensor = self.probe(features.to(self.probe.weight.device))
        return scores


def fit(
    task: FeatureTask, loss: Loss, choices: tuple[float, ...], options: FeatureOptions
) -> Fitted:
    """Extracts, fits for each C, keeps the best on validation data (of equals the smallest C).

    Args:
        task: images and network.
        loss: of the classifier.
        choices: values of C, ascending; where `options.c` gives one, it is that, and 1 without
            validation images.
        options: of the method.

    Raises:
        ModelError: no such layer.
        DataError: fewer than two classes, or a class without a training image.
    """
    begun = time.monotonic()
    features = features_of(task.model, options.layer, options.stage, task.train, task.device)
    extract = _Extract(features, options, task)
    held = 0 if task.validation is None else task.validation.size
    auto = "sklearn" if extract.in_memory else "streaming"
    how = auto if options.solver == "auto" else options.solver
    if options.c is not None or not held:
        choices = (options.c or 1.0,)
    with extract.stored(task.train, "train", extract.copies) as x:
        tried = _solve(x, task.train, task.device, loss, options, choices, how)
        scores = _scores(x[: task.train.size], tried)
    validation: Sequence[NDArray[np.float32] | None] = [None] * len(tried)
    if task.validation is not None and held:
        with extract.stored(task.validation, "validation") as x:
            validation = _scores(x, tried)
    rows = zip(choices, scores, validation, strict=True)
    history = [_row(number, c, task, own, other) for number, (c, own, other) in enumerate(rows)]
    notes = [_stopped(f"C = {c:g}", one, options) for c, one in zip(choices, tried, strict=True)]
    best = max(range(len(tried)), key=lambda i: (history[i]["val_top1_accuracy"] or 0.0, -i))
    linear, again = tried[best], None
    if task.refit is not None:
        again = {"images": task.refit.size, "c": choices[best]}
        with extract.stored(task.refit, "refit", extract.copies) as x:
            (linear,) = _solve(
                x, task.refit, task.device, loss, options, choices[best : best + 1], how
            )
        notes.append(_stopped("refit", linear, options))
    model = FeatureModel(features, linear, options.normalise).to(task.device)
    outcome = Outcome(
        status="done",
        history=history,
        best_epoch=best,
        state=dict(model.probe.state_dict(prefix="probe.")),
        steps=0,
        images_seen=task.train.size * extract.copies,
        seconds=time.monotonic() - begun,
        peak_memory_bytes=peak_memory_bytes(task.device),
        notes=tuple(filter(None, notes)),
        refit=again,
        held_scores=validation[best],
    )
    on = "validation" if held else "nothing: there are no validation images"
    said = {"c": choices[best], "features": extract.columns, "solver": how, "c_chosen_on": on}
    return Fitted(model, outcome, said, logits=loss == "logistic")


def _solve(
    x: NDArray[np.float32],
    data: Domain,
    device: torch.device,
    loss: Loss,
    options: FeatureOptions,
    choices: Sequence[float],
    how: str,
) -> list[Linear]:
    """A classifier for each C, by which an image weighs the same whatever the number of parts."""
    copies, classes = len(x) // data.size, data.num_classes
    labels = np.tile(data.labels, copies)
    choices = [c / copies for c in choices]
    if how == "sklearn":
        return [
            fit_in_memory(x, labels, classes, loss=loss, c=c, max_iter=options.max_iter)
            for c in choices
        ]
    memory = options.memory_mib * 2**20
    blocks = Blocks(max(16, min(4096, memory // (16 * x.shape[1]))), device)
    # The solver holds 25 times the weights of each C: 8 times the memory for as many as that holds.
    together = max(1, 8 * memory // (100 * classes * x.shape[1]))
    most = (
        options.max_iter
        if options.solver == "streaming"
        else min(options.max_iter, most_iterations(x.nbytes))
    )
    found: list[Linear] = []
    for at in range(0, len(choices), together):
        some = choices[at : at + together]
        found += fit_streaming(x, labels, classes, loss=loss, c=some, max_iter=most, blocks=blocks)
    return found


def _stopped(what: str, linear: Linear, options: FeatureOptions) -> str | None:
    """What the record notes of a solver that did not reach its tolerance."""
    if linear.converged:
        return None
    if linear.passes and options.solver == "auto":
        return (
            f"{what}: stopped after {linear.passes} passes over the features, near the solution; "
            "solver: streaming goes on to it"
        )
    return f"{what}: not converged after {options.max_iter} iterations"


def _scores(x: NDArray[np.float32], tried: Sequence[Linear]) -> list[NDArray[np.float32]]:
    """(N, C) of each classifier, in one pass over the features."""
    blocks = (np.asarray(x[at : at + 1024]) for at in range(0, len(x), 1024))
    parts = [[linear.scores(block) for linear in tried] for block in blocks]
    return [np.concatenate(of_one) for of_one in zip(*parts, strict=True)]


def _row(
    number: int,
    c: float,
    task: FeatureTask,
    own: NDArray[np.float32],
    held: NDArray[np.float32] | None,
) -> Row:
    """One C's line of the history, from the scores of training and validation images."""
    return {
        "epoch": number,
        "lr": None,
        **_measured("train", task.train, own),
        **_measured("val", task.validation, held),
        "c": c,
    }


def _measured(split: str, data: Domain | None, scores: NDArray[np.float32] | None) -> Row:
    """Columns of the history; the loss is the mean cross-entropy of the scores, in nats."""
    loss = accuracy = None
    if data is not None and scores is not None:
        loss = evaluate.cross_entropy(scores, data.labels)
        accuracy = evaluate.top1_accuracy(scores, data.labels)
    return {f"{split}_loss": loss, f"{split}_top1_accuracy": accuracy}


# --- features ---------------------------------------------------------------------------------


def penultimate_features(
    model: nn.Module, data: Domain, device: torch.device, cache: Path | None, parts: int = 0
) -> NDArray[np.float32]:
    """What a network's classifier is handed, float32; kept below `cache` once computed.

    Returns:
        ((1 + parts) N, D): of all images, then of a random part of each, and so on.
    """
    task = FeatureTask(model, data, None, device, Path(), cache=cache)
    features = features_of(model, "penultimate", "post", data, device)
    extract = _Extract(features, FeatureOptions(normalise=False, parts=parts), task)
    for view in range(extract.copies):
        extract.remember(data, view)
    return extract.array(data, extract.copies)


def features_of(
    model: nn.Module, layer: str, stage: Stage, data: Domain, device: torch.device
) -> Callable[[Tensor], Tensor]:
    """A function from normalised images to features (n, D) of a layer, flattened.

    With V views of a sample, from n V images to (n, V D): the views' features side by side.

    Args:
        layer: `penultimate` (what the classifier is handed), a number, or a module's name.
        stage: see `bench.training.features.extract`.
        data: images of the size that will come.
    """
    model.to(device).eval()
    if layer == "penultimate":
        classifier = model.get_submodule(classifier_name(model))
        trunk = Trunk(model, classifier)

        def computed(images: Tensor) -> Tensor:
            with torch.inference_mode():
                found: Tensor = trunk(images).flatten(1).float().clone()
            return found

        def penultimate(images: Tensor) -> Tensor:
            if images.device.type == "cpu" and not model.training:
                found = MEMO.of(trunk, classifier, images, lambda: computed(images))
            else:
                found = computed(images)
            return side_by_side(found, len(found) // data.views)

        return penultimate
    if not layer.strip():
        raise ModelError("no layer is named", hint="layer: penultimate, a number or a name")
    sample = Feed(data, FeedOptions(device, resident=False)).plain_batch(0, 1)
    name: str | int = int(layer) if layer.isdigit() else layer
    tap = LayerTap(model, [name], stage, sample)
    return lambda images: side_by_side(tap(images)[0].flatten(1).float(), len(images) // data.views)


def _normalised(features: Tensor, on: bool) -> Tensor:
    return features / features.norm(dim=1, keepdim=True).clamp(min=1e-12) if on else features


class _Extract:
    """Features of a domain, block by block or as one array.

    Of an image there are those of the whole (view 0), and those of random parts (from 1 on).
    """

    def __init__(
        self, features: Callable[[Tensor], Tensor], options: FeatureOptions, task: FeatureTask
    ) -> None:
        self.features, self.normalise, self.task = features, options.normalise, task
        self.copies = 1 + options.parts
        self._rows: dict[tuple[bytes, int], NDArray[np.float32]] = {}
        unused, stage = nn.Module(), options.stage
        if options.layer == "penultimate":  # there is but one stage of it
            unused, stage = task.model.get_submodule(classifier_name(task.model)), "post"
        place = (options.layer, stage, options.normalise)
        self._kept = KeptFeatures.of(task.cache, task.model, unused, place, task.device)
        self._computing_s = 0.0
        self.columns = self._block(self._feed(task.train), 0, 1).shape[1]
        images = task.train.size * self.copies
        images += 0 if task.validation is None else task.validation.size
        self.in_memory = images * self.columns * 12 <= options.memory_mib * 2**20
        if self.in_memory and task.refit is not None:
            for view in range(self.copies):
                self.remember(task.refit, view)

    def _feed(self, data: Domain) -> Feed:
        """Sends each image once, as each is looked at once."""
        options = FeedOptions(self.task.device, augment="scale_flip", scale=_PARTS, resident=False)
        return Feed(data, options)

    def _block(self, feed: Feed, start: int, stop: int, view: int = 0) -> NDArray[np.float32]:
        if not self._rows:
            return self._computed(feed, start, stop, view)
        names = [(name, view) for name in feed.domain.image_names[start:stop]]
        if not all(name in self._rows for name in names):
            found = self._computed(feed, start, stop, view)
            self._rows.update(zip(names, found, strict=True))
        return np.stack([self._rows[name] for name in names])

    def _computed(self, feed: Feed, start: int, stop: int, view: int = 0) -> NDArray[np.float32]:
        begun = time.monotonic()
        images = _parts_of(feed, start, stop, view) if view else feed.plain_batch(start, stop)
        found = self.features(images)
        block: NDArray[np.float32] = _normalised(found, self.normalise).cpu().numpy()
        self._computing_s += time.monotonic() - begun
        return block

    def blocks(self, data: Domain, view: int = 0) -> Iterator[NDArray[np.float32]]:
        """In the order of the images, each made when it is asked for."""
        feed = self._feed(data)
        count = feed.images_per_pass
        for start in range(0, data.size, count):
            yield self._block(feed, start, start + count, view)

    def remember(self, data: Domain, view: int = 0) -> None:
        """Takes the features of all images of a domain, whose parts are asked for afterwards.

        They are computed in an order that their names decide: any division of the same
        images into training and validation images has the same features, to the last bit.
        """
        first: dict[bytes, int] = {}
        for row, name in enumerate(data.image_names):
            first.setdefault(name, row)
        names = sorted(first)
        rows = np.array([first[name] for name in names])

        def blocks() -> Iterator[NDArray[np.float32]]:
            ends = even_passes(len(rows), self._feed(data).images_per_pass)
            for start, stop in itertools.pairwise(ends):
                some = rows[start:stop]
                part = replace(data, images=data.images[some], labels=data.labels[some])
                yield self._computed(self._feed(part), 0, part.size, view)

        content = hashlib.sha256(b"".join(names)).hexdigest()
        found = self._taken(data, content, len(rows), blocks(), view)
        self._rows.update(zip([(name, view) for name in names], found, strict=True))

    def array(self, data: Domain, copies: int = 1) -> NDArray[np.float32]:
        """All of them in memory, those that another process has kept not computed again.

        Returns:
            (copies N, D): a view of all images after the other.
        """
        found = []
        for view in range(copies):
            blocks = self.blocks(data, view)
            if self._rows:
                found.append(np.empty((data.size, self.columns), np.float32))
                _fill(found[-1], blocks)
            else:
                found.append(self._taken(data, data.images_sha256, data.size, blocks, view))
        return found[0] if copies == 1 else np.concatenate(found)

    def _taken(
        self,
        data: Domain,
        content: str,
        images: int,
        blocks: Iterable[NDArray[np.float32]],
        view: int,
    ) -> NDArray[np.float32]:
        self._computing_s = 0.0
        key = self._kept.key(data, f"{content} {_PARTS} {view}" if view else content)
        found = self._kept.read(key, images, self.columns)
        if found is None:
            found = np.empty((images, self.columns), np.float32)
            _fill(found, blocks)
            if self._computing_s >= LEAST_S / self.copies:
                self._kept.write(key, found)
        return found

    @contextmanager
    def stored(self, data: Domain, name: str, copies: int = 1) -> Iterator[NDArray[np.float32]]:
        """All of them: an array, or a file that lives as long as the `with` block."""
        if self.in_memory:
            yield self.array(data, copies)
            return
        path = temporary_beside(self.task.folder / f"{name}.features")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            x = np.memmap(path, np.float32, "w+", shape=(data.size * copies, self.columns))
            reserve(path)
            _fill(x, (block for view in range(copies) for block in self.blocks(data, view)))
            yield x
        finally:
            path.unlink(missing_ok=True)


_PARTS = Scale(least_area=0.35)
"""Of an image at least so much: smaller parts often show another thing."""


def _parts_of(feed: Feed, start: int, stop: int, view: int) -> Tensor:
    """A part of each image, normalised, (n V, 3, S, S): which one its pixels and `view` decide."""
    rows = np.arange(start, min(stop, feed.domain.size))
    noise = np.stack(
        [
            np.random.default_rng([view, *np.frombuffer(name, "<u4").tolist()]).random(
                BASE_COLUMNS, np.float32
            )
            for name in feed.domain.pixel_digests[start:stop]
        ]
    )
    return feed.training_batch(Shown.of(rows, torch.from_numpy(noise), feed.options.device))


def _fill(x: NDArray[np.float32], blocks: Iterable[NDArray[np.float32]]) -> None:
    at = 0
    for block in blocks:
        x[at : at + len(block)] = block
        at += len(block)
