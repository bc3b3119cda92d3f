"""The stream of selective joint fine-tuning: rounds, growing K, one neighbour per target image.

Ge, Yu (2017), §3.2, Eqs. 2, 3. Hardness as a level that repeats a target
image is in the released code only (`oversample_hard`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bench.core.errors import DataError
from bench.core.seeding import rng_from
from bench.methods.retrieval.neighbours import SelectionOptions
from bench.methods.streams import Indices, endless

FirstRounds = NDArray[np.int16]

if TYPE_CHECKING:
    from torch import Tensor

    from bench.methods.retrieval.search import Neighbours
    from bench.training.job import Predict


def random_order(name: str, size: int) -> Indices:
    """All source images in the order in which `partners: random` takes them; `name` seeds it.

    >>> sorted(random_order("toy", 4).tolist())
    [0, 1, 2, 3]
    """
    return rng_from(f"{name}|random partners").permutation(size).astype(np.int64, copy=False)


class NearestStream:
    """For each target image one of its first K_i neighbours, each with the same chance.

    With `options.partners: random` one of as many source images as all first neighbours together
    are, the same for every target image: `random_order(…)` up to that number.

    Args:
        neighbours: of all target images.
        shown: bool (source images,), the neighbours that can be shown.
        k0: K of the first round.
        labels: int64 (targets,), to see which predictions are wrong.
        starts: first epoch of each round.
        options: how K grows.
        name: seeds the choice.

    Attributes:
        first_round: int16 (source images,), the first round (from 1) that can show each image; 0
            is never. K never falls, so later rounds can show it too.

    Raises:
        DataError: a target image has no neighbour that can be shown.
    """

    def __init__(
        self,
        neighbours: Neighbours,
        shown: NDArray[np.bool_],
        k0: int,
        labels: Indices,
        starts: Sequence[int],
        options: SelectionOptions,
        name: str,
    ) -> None:
        self.neighbours, self.k0, self.labels = neighbours, k0, labels
        self.starts, self.options, self.name = tuple(starts), options, name
        self.shown = shown
        allowed = shown[neighbours.indices]
        # Those that can be shown first, in their order; and how many of the first K they are.
        order = np.argsort(~allowed, axis=1, kind="stable")
        self._nearest = np.take_along_axis(neighbours.indices, order, 1)
        self._available = allowed.cumsum(1)
        self.k: Indices = np.full(len(labels), k0, np.int64)
        self.level: Indices = np.ones(len(labels), np.int64)
        self.round = 0
        self._random = None
        if options.partners == "random":
            order = random_order(name, neighbours.source_size)
            self._random = order[shown[order]]
        self.log: list[dict[str, float]] = []
        self.first_round: FirstRounds = np.zeros(neighbours.source_size, np.int16)
        if self._random is None and not (self._available[:, k0 - 1] > 0).all():
            raise DataError(
                f"{(self._available[:, k0 - 1] == 0).sum()} target images have no neighbour left",
                hint="lower method.least_images_per_class, or raise method.k0",
            )
        self._write_down(0.0, 0.0)

    def draw(self, epoch: int, chunks: Sequence[Indices], predict: Predict) -> list[Indices]:
        """As `SourceStream.draw`; the first epoch of a round looks at the network's predictions."""
        self._look(epoch, predict)
        images = np.concatenate(chunks)
        chance = rng_from(f"{self.name}|{epoch}").random(len(images))
        if self._random is not None:
            union = self._random[: int(self.log[-1]["source_images"])]
            drawn = union[(chance * len(union)).astype(np.int64)]
        else:
            count = self._available[images, self.k[images] - 1]
            place = np.minimum((chance * count).astype(np.int64), count - 1)
            drawn = self._nearest[images, place]
        return np.split(drawn, np.cumsum([len(chunk) for chunk in chunks])[:-1])

    def oversampled(self, epoch: int, chunks: Sequence[Indices], predict: Predict) -> list[Indices]:
        """Target images for steps of the same sizes, each as often as its level says.

        Level 1 + sum of the growth so far: a list with each image so many times is shuffled and
        gone through again and again. Without `oversample_hard`, and while all are at level 1,
        `chunks` as they are.
        """
        if not self.options.oversample_hard:
            return list(chunks)
        self._look(epoch, predict)
        if self.level.max() == 1:
            return list(chunks)
        repeated = np.repeat(np.arange(len(self.level)), self.level)
        sizes = [len(chunk) for chunk in chunks]
        start = (epoch - self.starts[self.round]) * sum(sizes)
        row = endless(f"{self.name}|hard|{self.round}", len(repeated), start, sum(sizes))
        return np.split(repeated[row], np.cumsum(sizes)[:-1])

    def _look(self, epoch: int, predict: Predict) -> None:
        """Where `epoch` begins a round, K and levels grow by the network's predictions."""
        now = sum(start <= epoch for start in self.starts) - 1
        if now > self.round:
            self._grow(now, predict)

    def _grow(self, now: int, predict: Predict) -> None:
        from bench.methods.retrieval.adaptive import grow, prediction_entropy

        self.round = now
        if not self.options.adaptive:
            return
        logits = predict(0)
        wrong, entropy = logits.argmax(1) != self.labels, prediction_entropy(logits)
        self.k = grow(
            self.k,
            wrong,
            entropy,
            k0=self.k0,
            cap=self.neighbours.stored,
            delta=self.options.delta,
            wrong_factor=self.options.wrong_factor,
            unsure_factor=self.options.unsure_factor,
        )
        unsure = ~wrong & (entropy >= self.options.delta)
        self.level = self.level + np.where(
            wrong, self.options.wrong_factor, np.where(unsure, self.options.unsure_factor, 0)
        )
        self._write_down(float(wrong.mean()), float(unsure.mean()))

    def _write_down(self, wrong: float, unsure: float) -> None:
        from bench.methods.retrieval.adaptive import chosen

        rows = chosen(self.neighbours, self.k)
        able = rows[self.shown[rows]] if self._random is None else self._random[: len(rows)]
        self.first_round[able[self.first_round[able] == 0]] = self.round + 1
        self.log.append(
            {
                "round": float(self.round + 1),
                "wrong": wrong,
                "right_but_unsure": unsure,
                "mean_k": float(self.k.mean()),
                "largest_k": float(self.k.max()),
                "at_cap": float((self.k >= self.neighbours.stored).sum()),
                "source_images": float(len(rows)),
            }
        )
        if self.options.oversample_hard:
            self.log[-1]["mean_level"] = float(self.level.mean())

    def rounds(self) -> list[dict[str, float]]:
        """What was seen before each round, for the record; nothing before the first."""
        seen = ("wrong", "right_but_unsure")
        return [
            {key: value for key, value in entry.items() if number or key not in seen}
            for number, entry in enumerate(self.log)
        ]

    def state(self) -> Mapping[str, Tensor]:
        """K of every target image, the round, and what each round saw and can show."""
        import torch

        log = [list(entry.values()) for entry in self.log]
        return {
            "k": torch.from_numpy(self.k.copy()),
            "level": torch.from_numpy(self.level.copy()),
            "round": torch.tensor(self.round),
            "first_round": torch.from_numpy(self.first_round.copy()),
            "log": torch.tensor(log, dtype=torch.float64),
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what `state` gave."""
        self.k, self.round = state["k"].cpu().numpy().copy(), int(state["round"])
        self.level = state["level"].cpu().numpy().copy()
        self.first_round = state["first_round"].cpu().numpy().copy()
        names = list(self.log[0])
        self.log = [dict(zip(names, row, strict=True)) for row in state["log"].tolist()]
