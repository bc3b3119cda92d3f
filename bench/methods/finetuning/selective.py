"""Selective joint fine-tuning: each target image beside one of its nearest source images.

Ge, Yu (2017), "Borrowing Treasures from the Wealthy: Deep Transfer Learning through Selective Joint
Fine-tuning", §3. Joint training (see `bench.methods.finetuning.joint`) whose
source images are chosen by the target (see `bench.methods.retrieval.neighbours`): both classifiers
random, both losses in full. The rows of the paper's ablation are values of a grid:

    target only, from scratch              method plain, pattern scratch
    selective joint from scratch           selective, pattern scratch, bank gabor
    fine-tuning without source             plain
    all source, random source              joint, without and with borrow.total_images
    without iterative retrieval            selective, adaptive false
    Gabor bank                             selective, bank gabor
    full method, model fusion              selective, without and with fuse
    with validation images                 target.val_per_class 0, train.select last

`soft_selective` is a combination that no paper has: the selected images with soft fine-tuning's
fading weight and kept classifier.

Deviations: the source's classifier has the classes of all images that any round can show, so that
it is the same in every round. Hard images are shown no more often than others, unless
`oversample_hard` says so (the released code does, the paper does not).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.methods.finetuning.joint import Joint, JointOptions
from bench.methods.finetuning.soft import Soft, SoftOptions
from bench.methods.retrieval.nearest import NearestStream
from bench.methods.retrieval.neighbours import (
    Pool,
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


def _prepare(
    ingredients: Ingredients,
    source: Domain,
    number: int,
    options: SelectionOptions,
    *,
    reindex: bool,
    least: int,
) -> tuple[Pool, NearestStream, dict[str, Any]]:
    from bench.methods.retrieval.adaptive import chosen

    target, recipe = ingredients.target, ingredients.train
    starts = round_starts(recipe.epochs, options.rounds)
    neighbours, k0, notes = select(ingredients, source, options)
    every = np.full(target.size, neighbours.stored, np.int64)
    pool = pool_of(source, chosen(neighbours, every), reindex=reindex, least=least)
    name = f"neighbours|{ingredients.order_seed}|{number}"
    stream = NearestStream(neighbours, pool.shown, k0, target.labels, starts, options, name)
    return pool, stream, notes


class Selective(Joint):
    """Joint training on each target image and one of its current neighbours.

    Args:
        ingredients: target, recipe, order seed, borrowed domains, and the network as it starts.
        options: see `SelectiveOptions`.

    Raises:
        DataError: nothing to borrow, or K0 above the size of the source.
        ModelError: a bank of kernels without a trained network, or with unknown layers.
        GridError: more rounds than epochs.
    """

    def __init__(self, ingredients: Ingredients, options: SelectiveOptions) -> None:
        found = [
            _prepare(
                ingredients,
                source,
                number,
                options,
                reindex=options.reindex,
                least=options.least_images_per_class,
            )
            for number, source in enumerate(sources_of(ingredients, "selective"), start=1)
        ]
        pools, self.nearest, self._selection = zip(*found, strict=True)
        chosen = replace(ingredients, sources=tuple(pool.domain for pool in pools))
        super().__init__(chosen, options.model_copy(update={"reindex": False}), self.nearest)
        self.heads = {
            number: Head(kept=False, classes=pool.classes)
            for number, pool in enumerate(pools, start=1)
        }
        starts = round_starts(ingredients.train.epochs, options.rounds)
        self.restarts = starts[1:] if options.restart else ()
        self.fused = starts[1:] if options.fuse else ()

    def _shown(self, epoch: int, predict: Predict) -> list[Indices]:
        stream: NearestStream = self.nearest[0]
        return stream.oversampled(epoch, super()._shown(epoch, predict), predict)

    def notes(self, history: Sequence[Row]) -> Mapping[str, Any]:
        """The selection of each source, and its rounds."""
        return {
            "source_classes": [domain.num_classes for domain in self.domains[1:]],
            "selection": _selection_notes(self._selection, self.nearest),
        }


class SoftSelective(Soft):
    """Soft fine-tuning on each target image and one of its current neighbours.

    Args:
        ingredients: as for `Selective`, with the source that the parent was trained on.
        options: see `SoftSelectiveOptions`.

    Raises:
        DataError, ModelError, GridError: as `Selective`.
    """

    def __init__(self, ingredients: Ingredients, options: SoftSelectiveOptions) -> None:
        source, *others = sources_of(ingredients, "soft_selective")
        pool, self.nearest, self._selection = _prepare(
            ingredients, source, 1, options, reindex=options.reindex, least=0
        )
        chosen = replace(ingredients, sources=(pool.domain, *others))
        super().__init__(chosen, options.model_copy(update={"reindex": False}), self.nearest)
        self.heads[1] = Head(kept=options.keeps_source_head, classes=pool.classes)
        starts = round_starts(ingredients.train.epochs, options.rounds)
        self.restarts = starts[1:] if options.restart else ()
        self.fused = starts[1:] if options.fuse else ()

    def _shown(self, epoch: int, predict: Predict) -> list[Indices]:
        return self.nearest.oversampled(epoch, super()._shown(epoch, predict), predict)

    def notes(self, history: Sequence[Row]) -> Mapping[str, Any]:
        """Those of soft fine-tuning, the selection and its rounds."""
        selection = _selection_notes([self._selection], [self.nearest])
        return {**super().notes(history), "selection": selection}


def _selection_notes(
    selections: Sequence[Mapping[str, Any]], streams: Sequence[NearestStream]
) -> list[dict[str, Any]]:
    return [
        {**selection, "rounds": stream.rounds()}
        for selection, stream in zip(selections, streams, strict=True)
    ]
