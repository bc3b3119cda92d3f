"""Plain training: softmax cross-entropy on the target's own images, one domain.

Li, Herranz, Jiang (2019), §3: pre-training and fine-tuning alike. Deviation: an epoch is cut into
steps of equal size (or one image apart) of at most `batch_size`, so that BatchNorm is never handed
a nearly empty last batch and no image is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.core.errors import DataError
from bench.core.seeding import rng_from
from bench.methods.options import MethodOptions
from bench.methods.streams import Indices, Stateless, balanced, endless
from bench.specs.batches import natural_steps
from bench.specs.run import BatchNormMode
from bench.training.domain import Domain, DomainBatch, Head, Step

if TYPE_CHECKING:
    from bench.methods import Ingredients
    from bench.training.job import Predict, Row


class PlainOptions(MethodOptions):
    """Plain training has no options of its own."""


class Plain(Stateless):
    """One pass over the shuffled target per epoch, or a fixed number of full steps.

    With `ingredients.steps_per_epoch` other than that of one pass, epochs take consecutive full
    steps from an endless row of shuffled passes, so that all images are shown equally often
    whatever the number of steps (LI §4.6's `equal_steps`). With `train.sampling: balanced` epochs
    take consecutive images from an endless row in which the classes take turns.

    Raises:
        DataError: the target has no image.
    """

    target = 0
    heads: Mapping[int, Head] = MappingProxyType({})
    batch_norm: BatchNormMode = "joint"

    def __init__(self, ingredients: Ingredients, options: PlainOptions | None = None) -> None:
        self.domains: tuple[Domain, ...] = (ingredients.target,)
        self._size = ingredients.target.size
        if not self._size:
            raise DataError(f"domain {ingredients.target.name!r} has no image to train on")
        recipe = ingredients.train
        self._per_step = recipe.batch_size * recipe.accumulate
        self._one_pass = natural_steps(self._size, recipe.batch_size, recipe.accumulate)
        self._steps = ingredients.steps_per_epoch or self._one_pass
        self._seed = ingredients.order_seed
        self._balanced = ingredients.target.labels if recipe.sampling == "balanced" else None

    def steps(self, epoch: int, predict: Predict | None = None) -> Sequence[Step]:
        """The steps of `epoch`, a function of the order seed and the epoch."""
        if self._steps == self._one_pass:
            chunks = np.array_split(self._order(epoch), self._steps)
        else:
            shown = self._steps * self._per_step
            row = self._row(epoch * shown, shown)
            chunks = np.split(row, self._steps)
        return [(DomainBatch(0, chunk),) for chunk in chunks]

    def _row(self, start: int, length: int) -> Indices:
        name = f"order|{self._seed}"
        if self._balanced is not None:
            return balanced(name, self._balanced, start, length)
        return endless(name, self._size, start, length)

    def _order(self, number: int) -> Indices:
        if self._balanced is not None:
            return self._row(number * self._size, self._size)
        return rng_from(f"order|{self._seed}|{number}").permutation(self._size)

    def notes(self, history: Sequence[Row]) -> Mapping[str, Any]:
        """Nothing beyond the leaderboard."""
        return {}
