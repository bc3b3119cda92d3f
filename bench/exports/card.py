"""The model card: what a model is, on what it was trained, how good it is, with its certainty."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy.stats import binomtest

from bench.core.text import counted
from bench.methods import METHODS
from bench.results.lookup import Network
from bench.results.mistakes import Predictions
from bench.results.records import source_label
from bench.specs.run import RunSpec


@dataclass(frozen=True)
class Place:
    """Where a model and its run lie, for commands that can be pasted.

    Attributes:
        model: the model folder.
        results: the results folder.
        run_id: the run.
    """

    model: Path
    results: Path
    run_id: str

    @property
    def predict(self) -> str:
        """The command that names the classes of new images."""
        command = ["bench", "predict", str(self.model), "PHOTOS", "--out", "predictions.csv"]
        return shlex.join(command)

    @property
    def errors(self) -> str:
        """The command that shows the mistakes on the test images."""
        return shlex.join(["bench", "errors", self.run_id[:12], "--results", str(self.results)])


def accuracy_with_interval(predictions: Predictions) -> str:
    """Top-1 accuracy of one network, with Wilson's interval for the drawing of the test images.

    >>> import numpy as np
    >>> logits = np.array([[2, 1]] * 9 + [[1, 2]], np.float32)
    >>> accuracy_with_interval(Predictions(("a", "b"), (), np.zeros(10, int), logits))
    '90.0 % (59.6 to 98.2 %) of 10 test images'
    """
    images = len(predictions.labels)
    right = int((predictions.named == predictions.labels).sum())
    interval = binomtest(right, images).proportion_ci(method="wilson")
    return (
        f"{100 * right / images:.1f} % ({100 * interval.low:.1f} to {100 * interval.high:.1f} %) "
        f"of {counted(images, 'test image')}"
    )


def share(value: float | None) -> str:
    """A share in per cent; a dash where there is none."""
    return "–" if value is None else f"{100 * value:.1f} %"


def model_card(
    network: Network,
    record: Mapping[str, Any],
    predictions: Predictions,
    place: Place,
    race: Sequence[object] = (),
    soup: Sequence[str] = (),
) -> str:
    """Text of `README.md`, in Markdown.

    Args:
        network: the model.
        record: of its run.
        predictions: of the test images.
        place: where model and run lie.
        race: lines on what it was chosen from.
        soup: lines on the runs that it is a mean of; none for the network of one run.
    """
    spec, row = network.spec, record["row"]
    data, train = spec.data, spec.train
    images = counted(row["train_images"], "training image")
    if row["val_images"]:
        validated = counted(row["val_images"], "validation image")
        images += f" and {validated}" if train.refit else f"; {validated} chose the epoch or C"
    lines = [
        f"# {_plain(data.dataset if data.root is None else data.root.rstrip('/').split('/')[-1])}",
        "",
        f"{spec.model.name} for {counted(len(network.classes), 'class')}, images of "
        f"{data.image_size} pixels.",
        "",
        f"* Accuracy: {accuracy_with_interval(predictions)}; the interval is for other images of "
        "the same kind, at 95 %.",
        f"* Mean accuracy over classes: {share(row['mean_class_accuracy'])}.",
        f"* Trained on: {images}. Tested on {counted(row['test_images'], 'test image')}.",
        *(soup or _of_run(spec, record)),
        "",
        "| class | test images | recall | precision |",
        "| --- | ---: | ---: | ---: |",
        *(
            f"| {_plain(one.name)} | {one.images} | {share(one.recall)} | {share(one.precision)} |"
            for one in predictions.by_class()
        ),
        "",
        *_usage(network, place, of_run=not soup),
    ]
    if race:
        lines += ["Chosen on validation images; the best recipe of each kind:", ""]
        lines += [*(f"* {_plain(str(line).strip())}" for line in race), ""]
    return "\n".join(lines)


def _of_run(spec: RunSpec, record: Mapping[str, Any]) -> list[str]:
    return [
        f"* Starts from: {source_label(spec)}; layers {spec.pattern}, {_method(spec)}.",
        f"* Run {record['run_id']}; {record['row']['versions']}.",
    ]


def _method(spec: RunSpec) -> str:
    """The method and, of one that trains the network, for how long."""
    name, train = spec.method.name, spec.train
    match METHODS[name].kind:
        case "steps":
            return f"method {name}, learning rate {train.lr:g}, {counted(train.epochs, 'epoch')}"
        case "weights":
            return ", ".join(
                [f"method {name}", *(f"{o} {value}" for o, value in spec.method.options)]
            )
        case _:
            return f"method {name}"


def _usage(network: Network, place: Place, of_run: bool) -> list[str]:
    """How the model is used, and its mistakes are seen where it is the network of one run."""
    lines = [
        "Use, and see what it got wrong:" if of_run else "Use:",
        "",
        f"    {place.predict}",
        *([f"    {place.errors}"] if of_run else []),
        "",
    ]
    if type(network.model).__module__[:5] == "timm.":
        folder = json.dumps(f"local-dir:{place.model}", ensure_ascii=False)
        lines += [
            "or with timm:",
            "",
            f"    model = timm.create_model({folder}, pretrained=True).eval()",
            "    data = timm.data.resolve_data_config(model=model)",
            "    transform = timm.data.create_transform(**data)",
            "",
        ]
    return lines


def _plain(text: str) -> str:
    """Text from outside in a cell of Markdown."""
    visible = "".join(letter if letter.isprintable() else " " for letter in text)
    return visible.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
