"""Networks tried out before anything trains: do they take the images, do the weights fit?

torch is needed for that, so it happens in a process of its own, which answers each trial with null
or with what is wrong. What has passed is remembered below the results folder; our own networks with
no weights from files need no trial.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.core.child_process import ChildDiedError, answer_one, ask
from bench.core.errors import GridError
from bench.core.files import write_atomic
from bench.models.published import SMALLEST
from bench.specs.run import FromFile, RunSpec, canonical_json

Trial = Mapping[str, Any]

_PASSED = "networks.json"


def trial_of(spec: RunSpec, classes: int, smallest: int | None = None) -> Trial | None:
    """What has to be tried for a run; None where the tables have told all.

    Args:
        spec: the run.
        classes: number of its classes; 0 where the data are missing.
        smallest: the fewest images of a forward pass of its training; None where there is none, or
            the data are missing.
    """
    weights = None
    if isinstance(spec.init, FromFile):
        weights = {"pattern": spec.pattern, **spec.init.model_dump()}
    alone = smallest == 1 and not spec.borrow and not spec.layers.layers("F")
    drop_path = spec.train.drop_path
    if weights is None and spec.model.name in SMALLEST and not alone and not drop_path:
        return None
    free = weights is None or spec.layers.kind(spec.layers.depth) == "R"
    parent = spec.parent
    resized = parent is not None and parent.data.image_size != spec.data.image_size
    return {
        **_plain(spec),
        "classes": 10 if free else classes or 10,
        "weights": weights,
        **({"images": 1} if alone else {}),
        **({"drop_path": drop_path} if drop_path else {}),
        **({"copied": [spec.pattern, parent.data.image_size]} if parent and resized else {}),
    }


def _plain(spec: RunSpec) -> Trial:
    return {"model": spec.model.model_dump(mode="json"), "image_size": spec.data.image_size}


def check_networks(
    runs: Iterable[tuple[RunSpec, int, int | None, str]],
    cache: Path,
    described: Iterable[tuple[RunSpec, int, str]] = (),
) -> None:
    """Tries out every network of a grid at the size of its images, and its weights from files.

    Args:
        runs: spec, number of classes, the fewest images of a forward pass (see `trial_of`), and
            place in the grid file, of each.
        cache: folder in which what has passed is remembered.
        described: the run whose network's filters describe images, the side of the part of each
            image that they are shown, and the place in the grid file.

    Raises:
        GridError: at the place of the first run whose network will not do.
    """
    wanted: dict[str, tuple[Trial, str]] = {}
    for spec, classes, smallest, place in runs:
        trial = trial_of(spec, classes, smallest)
        if trial is not None:
            wanted.setdefault(_key(trial), (trial, place))
    for spec, side, place in described:
        if spec.model.name not in SMALLEST and side != spec.data.image_size:
            trial = {**_plain(spec), "classes": 10, "weights": None, "described": side}
            wanted.setdefault(_key(trial), (trial, place))
    passed = _read(cache / _PASSED)
    new = {key: both for key, both in wanted.items() if key not in passed}
    if not new:
        return
    answers = _ask([trial for trial, _ in new.values()])
    good = {key for key, answer in zip(new, answers, strict=True) if answer is None}
    if good:
        with contextlib.suppress(OSError):
            write_atomic(cache / _PASSED, json.dumps(sorted(passed | good)))
    for (_, place), answer in zip(new.values(), answers, strict=True):
        if answer is not None and answer["message"] is not None:
            raise GridError(answer["message"], place=place, hint=answer["hint"])


def _key(trial: Trial) -> str:
    """Names a trial with the release of timm; the place of a file plays no part."""
    weights = trial["weights"] and {k: v for k, v in trial["weights"].items() if k != "path"}
    text = canonical_json([metadata.version("timm"), {**trial, "weights": weights}])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _read(path: Path) -> set[str]:
    with contextlib.suppress(OSError, ValueError, TypeError):
        return set(json.loads(path.read_text(encoding="utf-8")))
    return set()


_UNKNOWN: Mapping[str, str | None] = {"message": None, "hint": None}


def _ask(trials: Sequence[Trial]) -> Sequence[Mapping[str, str | None] | None]:
    """One answer for each trial; where the process itself dies, the runs will tell."""
    try:
        answers: list[Mapping[str, str | None] | None] = ask("bench.models.compatibility", trials)
    except ChildDiedError:
        return [_UNKNOWN] * len(trials)
    return answers


def _answers(trials: Sequence[Trial]) -> list[Mapping[str, str | None] | None]:
    import warnings

    warnings.simplefilter("ignore")
    return [_answer(trial) for trial in trials]


def _answer(trial: Trial) -> Mapping[str, str | None] | None:
    from bench.core.errors import BenchError

    try:
        _try_size(trial)
        if trial["weights"] is not None:
            _try_weights(trial)
        if "copied" in trial:
            _try_parent(trial)
    except BenchError as error:
        return {"message": str(error).split("\n")[0], "hint": error.hint}
    return None


def _try_size(trial: Trial) -> None:
    """Images without content through the network, in training, without memory for either."""
    import torch

    from bench.core.errors import BenchError, ModelError
    from bench.models.layers import create
    from bench.specs.run import ModelSpec

    spec, size, images = ModelSpec(**trial["model"]), trial["image_size"], trial.get("images", 2)
    drop_path, side = trial.get("drop_path", 0.0), trial.get("described", size)
    try:
        with torch.device("meta"):
            model = create(spec, 10, seed=0, image_size=size, drop_path=drop_path)
            model.train()(torch.empty(images, 3, side, side))
    except BenchError:
        raise
    except NotImplementedError:
        return  # a layer that cannot do without memory: the run will tell
    except Exception as error:
        if "meta" in str(error):
            return
        if "more than 1 value per channel" in str(error):
            raise ModelError(
                f"{spec.name!r} cannot be trained on one image at a time at {size} pixels: its "
                "BatchNorm needs two values",
                hint="raise train.batch_size or the number of images, or lower train.accumulate",
            ) from None
        reason = str(error).strip().split("\n", maxsplit=1)[0] or type(error).__name__
        if side != size:
            raise ModelError(
                f"the filters of {spec.name!r} for images of {size} pixels cannot describe parts "
                f"of {side}: {reason}",
                hint="the part is method.crop of target.resize, or of target.image_size without "
                f"it: make it {size}",
            ) from None
        raise ModelError(
            f"{spec.name!r} does not take images of {size} pixels: {reason}",
            hint=f"set image_size to {_native(spec.name)}the network's own size, or to a larger "
            "multiple of 32, or choose another network",
        ) from None


def _native(name: str) -> str:
    import timm

    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    return f"{config.input_size[-1]}, " if config is not None else ""


def _try_weights(trial: Trial) -> None:
    """The file's weights into the network, as the run would do it."""
    from bench.core.errors import BenchError, ModelError
    from bench.models.layers import apply_pattern, create
    from bench.models.weights import load_state
    from bench.specs.pattern import LayerPattern
    from bench.specs.run import ModelSpec

    weights, size = trial["weights"], trial["image_size"]
    spec = ModelSpec(**trial["model"])
    init = FromFile(**{key: value for key, value in weights.items() if key != "pattern"})
    net = create(spec, trial["classes"], seed=0, image_size=size)
    pattern = LayerPattern.parse(weights["pattern"])
    try:
        apply_pattern(net, pattern, load_state(init, spec.name, size))
    except BenchError as error:
        raise ModelError(error.message, place=weights["path"], hint=error.hint) from None


def _try_parent(trial: Trial) -> None:
    """The weights of the parent, which sees images of another size, into the network."""
    import torch

    from bench.core.errors import BenchError, ModelError
    from bench.models.layers import apply_pattern, create
    from bench.specs.pattern import LayerPattern
    from bench.specs.run import ModelSpec

    spec, ours = ModelSpec(**trial["model"]), trial["image_size"]
    pattern, theirs = trial["copied"]
    parent = create(spec, trial["classes"], seed=1, image_size=theirs)
    net = create(spec, trial["classes"], seed=0, image_size=ours)
    try:
        with torch.inference_mode():
            apply_pattern(net, LayerPattern.parse(pattern), parent.state_dict())
    except BenchError as error:
        raise ModelError(
            f"{spec.name!r} is trained on source images of {theirs} pixels and copied for images "
            f"of {ours}: {error.message}",
            hint="set image_size of source and target alike",
        ) from None


if __name__ == "__main__":
    answer_one(_answers)
