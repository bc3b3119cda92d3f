"""Selective joint fine-tuning: each target image beside one of its nearest source images.

Ge, Yu (2017), "Borrowing Treasures from the Wealthy: Deep Transfer Learning through Selective Joint
Fine-tuning", §3. Joint training (see `bench.methods.finetuning.joint`) whose
source images are chosen by the target (see `bench.methods.retrieval.neighbours`): both classifiers
random, both losses in full. The rows of the paper's ablation are values of a grid:

    target only, from scratch              method plain, pattern scratch
    selective joint from scratch           selective, pattern scratch, bank gabor
    fine-tuning without source             plain
    all source                             joint
    random source                          selective, partners random
    without iterative retrieval            selective, adaptive false
    Gabor bank                             selective, bank gabor
    full method, model fusion              selective, without and with fuse
    with validation images                 target.val_per_class 0, train.select last

`soft_selective` is a combination that no paper has: the selected images with soft fine-tuning's
fading weight and kept classifier.

Deviations: the source's classifier has the classes of all images that any round can show, so that
it is the same in every round. Hard images are shown no more often than others, unless
`oversample_hard` is true (the released code does so, the paper does not).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.methods.finetuning.joint import Joint, JointOptions
from bench.methods.finetuning.soft import Soft, SoftOptions
from bench.methods.retrieval.nearest import FirstRounds, NearestStream, random_order
from bench.methods.retrieval.neighbours import (
    SelectionOptions,
    pool_of,
    round_starts,
    select,
)
from bench.methods.streams import Indices, sources_of
from bench.training.domain import Domain, Head

if TYPE_CHECKING:
    from bench.methods import Ingredients
    from bench.training.job import Predict, Row


class SelectiveOptions(JointOptions, SelectionOptions):
    """Options of joint training and of the selection."""


class SoftSelectiveOptions(SoftOptions, SelectionOptions):
    """Options of soft fine-tuning and of the selection."""


class _Selection:
    """A source as its neighbours of the target leave it: pool, stream, and notes for the record."""

    def __init__(
        self,
        ingredients: Ingredients,
        source: Domain,
        number: int,
        options: SelectiveOptions | SoftSelectiveOptions,
    ) -> None:
        from bench.methods.retrieval.adaptive import chosen

        target = ingredients.target
        starts = round_starts(ingredients.train.epochs, options.rounds)
        neighbours, k0, self._notes = select(ingredients, source, options)
        every = np.full(target.size, neighbours.stored, np.int64)
        rows, name = chosen(neighbours, every), f"neighbours|{ingredients.order_seed}|{number}"
        if options.partners == "random":
            rows = np.sort(random_order(name, source.size)[: len(rows)])
        least = options.least_images_per_class if isinstance(options, JointOptions) else 0
        self.pool = pool_of(source, rows, reindex=options.reindex, least=least)
        self.stream = NearestStream(
            neighbours, self.pool.shown, k0, target.labels, starts, options, name
        )
        self.fused = starts[1:] if options.fuse else ()

    def notes(self) -> dict[str, Any]:
        """The selection and its rounds."""
        return {**self._notes, "rounds": self.stream.rounds()}


class Selective(Joint):
    """Joint training on each target image and one of its current neighbours.

    Raises:
        DataError: nothing to borrow, or K0 above the size of the source.
        ModelError: a bank of kernels without a trained network, or with unknown layers.
        GridError: more rounds than epochs.
    """

    def __init__(self, ingredients: Ingredients, options: SelectiveOptions) -> None:
        self.selections = [
            _Selection(ingredients, source, number, options)
            for number, source in enumerate(sources_of(ingredients, "selective"), start=1)
        ]
        self.nearest = [one.stream for one in self.selections]
        chosen = replace(ingredients, sources=tuple(one.pool.domain for one in self.selections))
        super().__init__(chosen, options.model_copy(update={"reindex": False}), self.nearest)
        self.heads = {
            number: Head(kept=False, classes=one.pool.classes)
            for number, one in enumerate(self.selections, start=1)
        }
        self.fused = self.selections[0].fused

    @property
    def first_rounds(self) -> tuple[FirstRounds, ...]:
        """Of each source, see `NearestStream.first_round`."""
        return tuple(stream.first_round for stream in self.nearest)

    def _shown(self, epoch: int, predict: Predict) -> list[Indices]:
        return self.nearest[0].oversampled(epoch, super()._shown(epoch, predict), predict)

    def notes(self, history: Sequence[Row]) -> Mapping[str, Any]:
        """The selection of each source, and its rounds."""
        return {
            "source_classes": [domain.num_classes for domain in self.domains[1:]],
            "selection": [one.notes() for one in self.selections],
        }


class SoftSelective(Soft):
    """Soft fine-tuning on each target image and one of its current neighbours.

    Raises as `Selective`.
    """

    def __init__(self, ingredients: Ingredients, options: SoftSelectiveOptions) -> None:
        source, *others = sources_of(ingredients, "soft_selective")
        self.selection = _Selection(ingredients, source, 1, options)
        self.nearest, pool = self.selection.stream, self.selection.pool
        chosen = replace(ingredients, sources=(pool.domain, *others))
        super().__init__(chosen, options.model_copy(update={"reindex": False}), self.nearest)
        self.heads[1] = Head(kept=options.keeps_source_head, classes=pool.classes)
        self.fused = self.selection.fused

    @property
    def first_rounds(self) -> tuple[FirstRounds, ...]:
        """Of the first source, see `NearestStream.first_round`."""
        return (self.nearest.first_round,)

    def _shown(self, epoch: int, predict: Predict) -> list[Indices]:
        return self.nearest.oversampled(epoch, super()._shown(epoch, predict), predict)

    def notes(self, history: Sequence[Row]) -> Mapping[str, Any]:
        """Those of soft fine-tuning, the selection and its rounds."""
        return {**super().notes(history), "selection": [self.selection.notes()]}
