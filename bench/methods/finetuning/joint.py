"""Joint training on target and source: two classifiers on one trunk, both losses in full.

Ge, Yu (2017), "Borrowing Treasures from the Wealthy: Deep Transfer Learning through Selective Joint
Fine-tuning", §3.1 and the baselines of §4.6: each step shows as many source
images as target images, the sum of the two losses is minimised, both classifiers begin at random.
The whole source, or a random part of it (`borrow.total_images`), gives the rows "all source" and
"random source"; images chosen by the target are another stream in the same method.

Where the paper is silent or the released code differs, it is an option: loss weights 1:1 (code:
0.5:0.5); classes without images are dropped from the source's classifier (as in the code); the
code's replacement of a step's third and further images of a class (default: off);
BatchNorm sees both domains together. A mini-batch of `batch_size` is so many pairs: GE's 20 images
are `batch_size: 10`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field, Strict

from bench.core.seeding import rng_from
from bench.methods.finetuning.plain import Plain
from bench.methods.options import MethodOptions
from bench.methods.streams import Indices, Shuffled, SourceStream, reindexed, sources_of
from bench.specs.data import Bool, Count, NonNegative
from bench.specs.run import BatchNormMode
from bench.training.domain import Domain, DomainBatch, Head, Step

if TYPE_CHECKING:
    from torch import Tensor

    from bench.methods import Ingredients
    from bench.training.job import Predict, Row


Weight = Annotated[float, Strict(), Field(ge=0, allow_inf_nan=False)]


class JointOptions(MethodOptions):
    """Options of joint training.

    Attributes:
        target_weight: of the target's loss.
        source_weight: of the source's loss.
        batch_norm: statistics over both domains, of each, or those of the parent; see
            `bench.models.heads.MultiHead`.
        reindex: the source's classifier has only the classes that have images.
        least_images_per_class: with `reindex`, source classes with fewer images are left out.
        most_per_class: further images of one target class within a step give way to images of
            classes that the step lacks (the released code allows 2); None leaves them.
    """

    target_weight: Weight = 1.0
    source_weight: Weight = 1.0
    batch_norm: BatchNormMode = "joint"
    reindex: Bool = True
    least_images_per_class: NonNegative = 0
    most_per_class: Count | None = None


def spread(chunk: Indices, labels: Indices, most: int, rng: np.random.Generator) -> Indices:
    """A step's target images with at most `most` of a class, as far as absent classes last.

    Each further image is replaced by a random one of a class that the step lacks; absent classes
    come in random order, each once (GE's released code).

    `chunk` are the (n,) images of the step, `labels` (N,) those of all target images.
    """
    result, shown = chunk.copy(), labels[chunk]
    seen: dict[int, int] = {}
    absent = [int(c) for c in rng.permutation(np.setdiff1d(labels, shown))]
    for place, label in enumerate(shown.tolist()):
        seen[label] = seen.get(label, 0) + 1
        if seen[label] > most and absent:
            result[place] = rng.choice(np.flatnonzero(labels == absent.pop()))
    return result


class Joint:
    """Pairs of target and source images, both losses at fixed weights.

    Args:
        streams: chooses the source images, one stream for each borrowed domain as this method
            numbers its images; at random if None.

    Raises:
        DataError: there is nothing to borrow.
    """

    target = 0

    def __init__(
        self,
        ingredients: Ingredients,
        options: JointOptions,
        streams: Sequence[SourceStream] | None = None,
    ) -> None:
        self.options = options
        self.plain, self._seed = Plain(ingredients), ingredients.order_seed
        sources: list[Domain] = []
        self.heads: dict[int, Head] = {}
        for number, source in enumerate(sources_of(ingredients, "joint"), start=1):
            classes = np.arange(source.num_classes, dtype=np.int64)
            if options.reindex:
                source, classes = reindexed(source, options.least_images_per_class)
            sources.append(source)
            self.heads[number] = Head(kept=False, classes=classes)
        self.domains: tuple[Domain, ...] = (ingredients.target, *sources)
        self.batch_norm = options.batch_norm
        self.streams: Sequence[SourceStream] = streams or [
            Shuffled(source.size, f"source|{ingredients.order_seed}|{number}")
            for number, source in enumerate(sources, start=1)
        ]

    def steps(self, epoch: int, predict: Predict) -> Sequence[Step]:
        """The target's steps, each with as many images of every source."""
        chunks = self._chunks(epoch, predict)
        drawn = [stream.draw(epoch, chunks, predict) for stream in self.streams]
        return [
            (
                DomainBatch(0, chunk, self.options.target_weight),
                *(
                    DomainBatch(number, images[place], self.options.source_weight)
                    for number, images in enumerate(drawn, start=1)
                ),
            )
            for place, chunk in enumerate(chunks)
        ]

    def _shown(self, epoch: int, predict: Predict) -> list[Indices]:
        """The target images of each step, as the method orders them."""
        return [part.indices for (part,) in self.plain.steps(epoch)]

    def _chunks(self, epoch: int, predict: Predict) -> list[Indices]:
        """The target images of each step."""
        chunks = self._shown(epoch, predict)
        if self.options.most_per_class is None:
            return chunks
        labels, rng = self.domains[0].labels, rng_from(f"spread|{self._seed}|{epoch}")
        return [spread(chunk, labels, self.options.most_per_class, rng) for chunk in chunks]

    def state(self) -> Mapping[str, Tensor]:
        """That of the streams."""
        return {
            f"{number}/{name}": value
            for number, stream in enumerate(self.streams)
            for name, value in stream.state().items()
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Hands each stream its part."""
        for number, stream in enumerate(self.streams):
            start = f"{number}/"
            stream.restore({k[len(start) :]: v for k, v in state.items() if k.startswith(start)})

    def notes(self, history: Sequence[Row]) -> Mapping[str, Any]:
        """Images and classes of each source, as trained on."""
        return {
            "source_images": [domain.size for domain in self.domains[1:]],
            "source_classes": [domain.num_classes for domain in self.domains[1:]],
        }
