"""Runs whose first layers are frozen: what those give is computed once where that changes nothing.

Whether it changes nothing is not assumed but tried: the network must be a chain at the boundary
(`bench.models.prefix`), and the smallest batch that training will use must give the same bits,
row by row, computed as training computes them (training mode, active dropout and all) and kept.
On a processor batches of fewer than 16 images are filled up for that (`Feed.fills_up`).
On a GPU the size of a batch may decide which kernel computes it, and so last bits;
`train.prefix_tolerance` allows a difference, as a share of the largest value. Fixed views
(`train.cached_views`) are asked for, to be kept: there float32 activations may always differ by
`CLOSE`. Held-out images are never augmented and see no dropout, so they may be kept where training
images may not, and are not tried: their last bits may be those of another size of batch.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.models.numbering import numbered_layers
from bench.models.prefix import prefix_suffix
from bench.specs.batches import smallest_pass
from bench.specs.run import TrainSpec
from bench.training.activations import ActivationStore
from bench.training.domain import Domain, Step
from bench.training.domain_batches import Feed, FeedOptions, Shown
from bench.training.evaluation import Logits, predict_feed
from bench.training.precision import resolved

LEAST_SHARE = 0.7
"""Of the forward pass's multiplications: below it, keeping gains less than 1.8 x and takes more
room than the images (four of eight layers are 0.76 to 0.82, three 0.54 to 0.66)."""


CLOSE = 1e-5
"""Most that a kept activation of a fixed view may differ from the computed one, of the largest."""


@dataclass(eq=False)
class FrozenPrefix:
    """The frozen first layers of a run's network, and what is known of keeping their activations.

    Attributes:
        prefix, suffix: the forward pass up to the boundary, without a graph, and from there on.
        layers: frozen first layers, of `depth`.
        share: their share of a forward pass's multiplications.
        identity: of their weights and of the network's structure.
        recipe: of the run.
        store: what earlier runs kept.
        set_modes: puts frozen layers into the modes of training.
        first_steps: the steps of the first epoch, for the trial.
        notes: what came of it, for the record.
    """

    model: nn.Module
    prefix: Callable[[Tensor], Tensor]
    suffix: Callable[[Tensor], Tensor]
    layers: int
    depth: int
    share: float
    identity: str
    recipe: TrainSpec
    store: ActivationStore
    set_modes: Callable[[], object]
    first_steps: Callable[[], Sequence[Step]]
    notes: dict[str, str] = field(default_factory=dict)
    _close: str = ""

    def __call__(self, feeds: Sequence[Feed], validation: Feed | None) -> None:
        """Keeps the activations of these feeds where that is right and pays.

        Args:
            feeds: of the training images, one domain.
            validation: of the validation images.
        """
        (training,) = feeds
        why = self._refusal(training)
        self.notes["prefix"] = f"recomputed: {why}" if why else f"cached: {self._what(training)}"
        if validation is not None and self.share >= LEAST_SHARE:
            self._keep(validation)

    def job(self) -> dict[str, Any]:
        """What a `TrainingJob` needs of this."""
        suffix = self.suffix
        return {
            "prefix": self.prefix,
            "forward": lambda inputs, parts: [suffix(inputs)],
            "share": self,
        }

    def test_scores(self, domain: Domain) -> Logits:
        """Class scores of images under the present weights, in evaluation mode."""
        self.model.eval()
        device = next(self.model.parameters()).device
        recipe = self.recipe
        options = FeedOptions(device, recipe.channels_last, recipe.precision, resident=False)
        feed = Feed(domain, options, self.prefix)
        if self.share >= LEAST_SHARE:
            self._keep(feed)
        return predict_feed(self.suffix, feed)

    def _what(self, training: Feed) -> str:
        kept = self.store.get(self._key(training))
        size = "" if kept is None else f", {kept.size_bytes / 2**20:.2g} MiB"
        share = f"{self.share:.0%} of the forward pass"
        views = training.options.fixed
        once = "once per image" if views is None else f"once per image and view of {views.count}"
        about = f"layers 1 to {self.layers} of {self.depth}, {share}, {once}"
        return f"{about}{size}{self._close}"

    def _refusal(self, training: Feed) -> str | None:
        """Why the training images' activations are not kept; None: they are now."""
        if self.share < LEAST_SHARE:
            return (
                f"layers 1 to {self.layers} are {self.share:.0%} of the forward pass, and keeping "
                f"pays from {LEAST_SHARE:.0%} on"
            )
        if training.options.ever_new is not None:
            return f"{training.options.ever_new} gives ever new images"
        key = self._key(training)
        if (key, 0) not in self.store.differences and not self._steady(training):
            return "dropout in frozen layers is active (frozen_dropout: true)"
        self.store.differences[key, 0] = 0.0
        training.fills_up = True  # also where nothing is kept in the end: the bits are the same
        smallest = _smallest_pass(self.first_steps(), self.recipe.accumulate)
        tried = key, min(training.domain.size, smallest)
        allowed, is_new = self._allowed(training), self.store.get(key) is None
        if self.store.differences.get(tried, 0.0) <= allowed:
            if not self._keep(training):
                on_gpu = training.options.device.type == "cuda"
                where = "on the GPU" if on_gpu else "in memory and on the disk"
                return f"its activations exceed the room for them {where}"
            if tried not in self.store.differences:
                self.store.differences[tried] = self._difference(training, tried[1])
        difference = self.store.differences[tried]
        if difference > allowed:
            training.forget()
            if is_new:  # no other run has taken them
                self.store.drop(key)
            return (
                "a training batch gives other values here than all images at once, by "
                f"{difference:.1e} of the largest; train.prefix_tolerance is {allowed:g}"
            )
        if difference:
            self._close = f", within {difference:.1e} of what a training batch gives"
        return None

    def _allowed(self, training: Feed) -> float:
        """How far kept rows may be from computed ones, as a share of the largest value."""
        options, asked = training.options, self.recipe.prefix_tolerance
        is_float32 = resolved(options.precision, options.device) == "float32"
        return max(asked, CLOSE) if options.fixed is not None and is_float32 else asked

    def _keep(self, feed: Feed) -> bool:
        """Takes what is kept for the feed's images, or computes it; False without room."""
        key = self._key(feed)
        kept = self.store.get(key)
        if kept is not None:
            feed.use(kept)
            return True
        self.model.eval()
        one = feed.boundary(0, 1)
        size = one.numel() * one.element_size() // feed.domain.views * feed.cached_rows
        room = self.store.room_for(size, feed.options.device)
        if room is None:
            return False
        try:
            kept = feed.cache_prefix(room=room)
        except OSError:  # the disk is full; recomputing is always possible
            return False
        self.store.put(key, kept)
        return True

    def _key(self, feed: Feed) -> str:
        """Of the images and of everything that is done to them up to the boundary."""
        domain, options = feed.domain, feed.options
        mirrored = options.augment == "flip"
        parts: list[object] = [
            self.identity,
            self.layers,
            domain.images_sha256,
            domain.form,
            mirrored,
        ]
        parts += [resolved(options.precision, options.device), options.channels_last]
        parts += [options.device, torch.get_num_threads()]
        parts.append(self.recipe.deterministic and options.device.type == "cuda")
        if options.fixed is not None:
            parts += [options.fixed, options.augment, options.crop_pad, options.scale]
            parts += [options.policy, options.erasing]
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    # --- the trial ---

    def _steady(self, feed: Feed) -> bool:
        """Whether the prefix gives the same in training mode, twice, and in evaluation mode."""
        images = feed.boundary  # the same few images each time
        count = min(2, feed.domain.size)
        with torch.random.fork_rng(devices=self._cuda(feed)):
            self.model.train()
            self.set_modes()
            first, second = images(0, count).clone(), images(0, count).clone()
        self.model.eval()
        return torch.equal(first, second) and torch.equal(first, images(0, count))

    def _difference(self, feed: Feed, count: int) -> float:
        """How far `count` kept rows are from those that a batch of training gives, see
        `_difference`."""
        size = feed.domain.size  # rows of all passes that have computed what is kept
        indices = np.linspace(0, size - 1, count).round().astype(np.int64)
        fixed = feed.options.fixed
        if fixed is None:
            generator = torch.Generator().manual_seed(0)
            noise = torch.rand(len(indices), 6, generator=generator)
            shown = Shown.of(indices, noise, feed.options.device)
        else:  # the last, whose rows are the last
            view = fixed.count - 1
            noise = fixed.noise(feed.domain.size, view)[indices]
            shown = Shown.of(indices, noise, feed.options.device, view)
        kept = feed.training_batch(shown)
        computed = feed.without_cache().training_batch(shown)
        return _difference(kept, computed)

    def _cuda(self, feed: Feed) -> list[torch.device]:
        return [feed.options.device] if feed.options.device.type == "cuda" else []


def _difference(kept: Tensor, computed: Tensor) -> float:
    """The largest difference as a share of the largest value; 0 is equal to the last bit.

    Infinite where the next layer would be handed another memory layout, or values are not finite.

    >>> _difference(torch.tensor([1.0, 4.5]), torch.tensor([1.0, 5.0]))
    0.1
    """
    if _layout(kept) != _layout(computed):
        return math.inf
    if torch.equal(kept, computed):
        return 0.0
    largest = computed.double().abs().max()
    share = float((kept.double() - computed.double()).abs().max() / largest)
    return share if math.isfinite(share) else math.inf


def _layout(batch: Tensor) -> tuple[bool, bool]:
    last = batch.ndim == 4 and batch.is_contiguous(memory_format=torch.channels_last)
    return batch.is_contiguous(), last


def _smallest_pass(steps: Sequence[Step], accumulate: int) -> int:
    """Images of it in training: kernels are others for few images than for many."""
    return min(smallest_pass(len(part.indices), accumulate)[1] for step in steps for part in step)


def forward_share(model: nn.Module, n: int, image: Tensor) -> float:
    """The share of layers 1..n in the multiplications of a forward pass's convolutions and maps.

    Args:
        image: one input (1, 3, S, S).

    >>> from bench.models.narrow import NarrowNet
    >>> round(forward_share(NarrowNet(num_classes=5), 4, torch.zeros(1, 3, 32, 32)), 2)
    0.76
    """
    place = {name: layer.number for layer in numbered_layers(model) for name in layer.modules}
    counted = {True: 0, False: 0}

    def count(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, given: object, result: Tensor) -> None:
            weight = module.weight
            assert isinstance(weight, Tensor)
            counted[place[name] <= n] += result.numel() * weight[0].numel()

        return hook

    handles = [
        module.register_forward_hook(count(name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and name in place
    ]
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            model(image)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in training.items():
            module.training = mode
    return counted[True] / max(counted[True] + counted[False], 1)


def frozen_prefix(
    model: nn.Module,
    layers: int,
    image_size: int,
    *,
    identity: str,
    recipe: TrainSpec,
    store: ActivationStore,
    set_modes: Callable[[], object],
    first_steps: Callable[[], Sequence[Step]],
) -> FrozenPrefix | None:
    """The network cut behind its frozen first layers; None where it cannot be proved to be a chain.

    Args:
        model: where it will be trained; frozen layers keep their modes (`freeze_modes`).
        layers: number of frozen first layers.
        image_size: side in pixels.
        identity: of the frozen weights (`frozen_fingerprint`) and of the network's options.
        recipe: of the run.
        store: keeps activations between runs.
        set_modes: see `freeze_modes`.
        first_steps: the steps of the first epoch.
    """
    halves = prefix_suffix(model, layers, image_size)
    if halves is None:
        return None
    device = next(model.parameters()).device
    share = forward_share(model, layers, torch.zeros(1, 3, image_size, image_size, device=device))
    return FrozenPrefix(
        model,
        *halves,
        layers=layers,
        depth=len(numbered_layers(model)),
        share=share,
        identity=identity,
        recipe=recipe,
        store=store,
        set_modes=set_modes,
        first_steps=first_steps,
    )
