"""A soup of finished runs: their mean, chosen on validation images, then tested once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from bench.core.errors import BenchError, ModelError
from bench.core.text import counted
from bench.exports.network import exported_network
from bench.methods.averaging import Recipe, difference, greedy_soup, uniform_soup
from bench.results.lookup import Network
from bench.results.mistakes import Predictions
from bench.results.store import RunFolder
from bench.runs.build import Context, Data, Loader
from bench.training.evaluation import mean_class_accuracy, predict, top1_accuracy


@dataclass(frozen=True, eq=False)
class Mean:
    """The mean of some of several networks.

    Attributes:
        state: the weights.
        used: places of the networks in it.
        alone: accuracy of each network on validation images; None without any.
        val_accuracy: the same of the mean.
    """

    state: Mapping[str, Tensor]
    used: tuple[int, ...]
    alone: tuple[float | None, ...]
    val_accuracy: float | None


def mean_of(
    states: Sequence[Mapping[str, Tensor]],
    choose: Recipe,
    accuracy_of: Callable[[Mapping[str, Tensor]], float] | None,
) -> Mean:
    """The mean of networks by the weights of each, or of those of them that `choose` takes.

    Args:
        states: the weights.
        choose: see `bench.methods.averaging.SoupOptions`; `greedy` needs `accuracy_of`.
        accuracy_of: on validation images; None where there are none that no network learned.

    Raises:
        ModelError: there is nothing to choose by, or the networks differ in names or shapes.
    """
    if accuracy_of is None:
        if choose == "greedy":
            raise ModelError("a greedy soup chooses on validation images, and there are none")
        state, every = uniform_soup(states), tuple(range(len(states)))
        return Mean(state, every, (None,) * len(states), None)
    alone = [accuracy_of(state) for state in states]
    state, used = uniform_soup(states), tuple(range(len(states)))
    if choose == "greedy":
        state, used = greedy_soup(states, alone, accuracy_of)
    return Mean(state, used, tuple(alone), accuracy_of(state))


@dataclass(frozen=True)
class Ingredient:
    """A run that was named for a soup.

    Attributes:
        folder: of the run.
        val_accuracy: of its network alone; None without validation images that it did not learn.
        used: whether it is in the mean.
    """

    folder: RunFolder
    val_accuracy: float | None
    used: bool


@dataclass(frozen=True, eq=False)
class Soup:
    """A mean of networks, and how good it is.

    Attributes:
        network: with the mean of the weights, in evaluation mode.
        ingredients: in the order given.
        val_accuracy: see `Ingredient`.
        predictions: of the test images.
        record: of the first run, with the soup's own test metrics.
    """

    network: Network
    ingredients: tuple[Ingredient, ...]
    val_accuracy: float | None
    predictions: Predictions
    record: Mapping[str, Any]

    @property
    def best(self) -> Ingredient:
        """The run that is best on validation images; the first without any."""
        return max(self.ingredients, key=lambda one: one.val_accuracy or 0.0)


def make_soup(folders: Sequence[RunFolder], recipe: Recipe, context: Context) -> Soup:
    """The mean of runs that began with the same weights and learned the same images.

    Args:
        folders: of the runs; their networks are those of `exported_network`.
        recipe: see `bench.methods.averaging`.
        context: where images and results lie.

    Raises:
        BenchError: runs that cannot be averaged, or no validation images for `greedy`.
    """
    networks = [exported_network(folder) for folder in folders]
    record = check_alike(folders)
    spec = networks[0].spec
    data, model = Loader(context)(spec), networks[0].model.to(context.torch_device())
    if data.resolved.fingerprint != record["images"]:
        raise BenchError(
            "the images are not those that these runs learned from",
            place=str(folders[0].path),
            hint="the data set changed since; run the grid again",
        )
    validated = len(data.loaded.val) > 0 and not any(one.spec.train.refit for one in networks)
    if recipe == "greedy" and not validated:
        why = "learned from them too (train.refit)" if len(data.loaded.val) else "have none"
        raise BenchError(
            f"a greedy soup chooses on validation images, and these runs {why}",
            hint="use --soup uniform, or runs that keep validation images apart",
        )
    states = [
        {key: value.cpu().clone() for key, value in one.model.state_dict().items()}
        for one in networks
    ]

    def accuracy_of(state: Mapping[str, Tensor]) -> float:
        model.load_state_dict(state)
        held = data.domain("val", model)
        return top1_accuracy(predict(model, held, device=context.torch_device()), held.labels)

    mean = mean_of(states, recipe, accuracy_of if validated else None)
    model.load_state_dict(mean.state)
    ingredients = tuple(
        Ingredient(folder, accuracy, n in mean.used)
        for n, (folder, accuracy) in enumerate(zip(folders, mean.alone, strict=True))
    )
    network = replace(networks[0], model=model)
    predictions, row = _tested(network, data, context)
    tested = {**record, "row": {**record["row"], **row}}
    return Soup(network, ingredients, mean.val_accuracy, predictions, tested)


def _tested(network: Network, data: Data, context: Context) -> tuple[Predictions, dict[str, float]]:
    """The predictions of the test images, and columns of a row."""
    test = data.domain("test", network.model)
    logits = predict(network.model, test, device=context.torch_device())
    images = tuple(image.key for image in data.resolved.test)
    row = {
        "mean_class_accuracy": mean_class_accuracy(logits, test.labels),
        "test_images": test.size,
    }
    return Predictions(network.classes, images, test.labels, logits), row


def check_alike(folders: Sequence[RunFolder]) -> Mapping[str, Any]:
    """Refuses runs whose weights or validation images have nothing in common; the first's record.

    Raises:
        BenchError: naming the first run that differs, and in what.
    """
    first = folders[0]
    record, spec = first.record(), first.spec()
    assert record is not None  # exported_network
    for number, folder in enumerate(folders[1:], 1):
        if folder.run_id in {one.run_id for one in folders[:number]}:
            raise BenchError(
                f"run {folder.path.name} is named twice", hint="name each run of a soup once"
            )
        why = difference(spec, folder.spec())
        if why is None and (folder.record() or {}).get("images") != record["images"]:
            why = "draw of images"
        if why is not None:
            raise BenchError(
                f"runs {first.path.name} and {folder.path.name} differ in their {why}, so a mean "
                "of their weights has no meaning or no validation images of its own",
                hint="name runs of one target, network, source and draw of images (seeds.draw), "
                "which may differ in recipe and in other seeds",
            )
    if len(folders) > 1 and spec.init.kind == "scratch":
        raise BenchError(
            f"{counted(len(folders), 'run')} from random weights have nothing in common, so a "
            "mean of their weights is no network",
            hint="name runs that were tuned from the same source",
        )
    return record
