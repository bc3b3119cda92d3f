"""Runs of a batch that share work: a frozen prefix forwarded once, classifiers trained together.

What is shared is chosen here for each run. What comes out is that of runs one by one, up to the
order of sums for fused classifiers, and for kept activations of training images within what
`bench.training.frozen_prefix_cache` allows: the same bits in the batch that it tries, unless
`train.prefix_tolerance` or fixed views (`train.cached_views`) allow a difference. Those of held-out
images are kept without a trial: where the size of a batch decides which kernel computes it, as on a
GPU, their last bits may differ.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.core.errors import BenchError
from bench.models import layers
from bench.models.domains import Trunk, classifier_name
from bench.results.failures import GpuFaultError, failure_of
from bench.results.store import GPU_FAULT, RunFolder, Store
from bench.runs.build import build_method
from bench.runs.distributed import Report
from bench.runs.execution import Execution
from bench.runs.record import Finished, publish
from bench.specs.run import RunSpec, canonical_json
from bench.training import frozen_prefix_cache as sharing
from bench.training.activations import ActivationStore
from bench.training.domain_batches import Feed, FeedOptions
from bench.training.frozen_prefix_cache import FrozenPrefix
from bench.training.fused import Head, HeadOutcome, train_heads
from bench.training.job import Interrupted, Method, Outcome
from bench.training.precision import resolved
from bench.training.process import begin_measuring, peak_memory_bytes

MOST_HEADS = 64
"""Classifiers of one fused group; more gain nothing, and one failure costs them all."""

_FUSED = {"step_iterations", "restart_every", "sampling", "prefix_tolerance"}
"""Of the options of training that came later, those that classifiers trained together may have."""

Keyed = tuple[str, RunSpec]


class _NotTogether(Exception):  # noqa: N818 -- a way out, not an error: the runs go one by one
    """The network or the images do not allow it."""


def prefix_of(
    spec: RunSpec,
    model: nn.Module,
    method: Method,
    frozen: str,
    kept: ActivationStore,
    set_modes: Callable[[], object],
    device: torch.device,
) -> FrozenPrefix | None:
    """The frozen first layers of a run with plain training, if it has any and can be cut there.

    Args:
        spec: the run.
        model: its network; moved to the device.
        method: gives the first epoch's steps for the trial.
        frozen: fingerprint of the frozen weights.
        kept: what earlier runs of the batch kept.
        set_modes: see `layers.freeze_modes`.
        device: where it is trained.
    """
    count = spec.layers.frozen_prefix
    if not count or spec.method.name != "plain":
        return None
    domain = method.domains[0]
    return sharing.frozen_prefix(
        model.to(device),
        count,
        domain.crop or domain.images.shape[2],
        identity=f"{spec.model.model_dump_json()}|{frozen}",
        recipe=spec.train,
        store=kept,
        set_modes=set_modes,
        first_steps=lambda: method.steps(0, _no_prediction),
    )


def _no_prediction(domain: int) -> Any:
    raise AssertionError("plain training does not ask for predictions")


# --- which runs go together --------------------------------------------------------------------


def fuse_key(spec: RunSpec, device: torch.device) -> str | None:
    """Equal for runs whose classifiers can be trained together on a device; None where there is no
    such way.

    All layers but the last are frozen and it is random, plain SGD in float32 on the images as they
    are; `lr`, `weight_decay`, `seeds.init` and `seeds.order` may differ. AdamW divides by gradients
    that may be nearly nothing, and bfloat16 rounds to three digits: both make of another order of
    sums another result. With `refit` a run has a second training, of as many epochs as it chose.
    """
    recipe, pattern = spec.train, spec.layers
    fits = (
        spec.method.name == "plain"
        and not spec.borrow
        and pattern.frozen_prefix == pattern.depth - 1
        and pattern.kind(pattern.depth) == "R"
        and recipe.optimizer == "sgd"
        and resolved(recipe.precision, device) == "float32"
        and recipe.augment == "none"
        and recipe.expand_to is None
        and recipe.changed_fields() <= _FUSED
    )
    if not fits:
        return None
    own = spec.model_copy(
        update={
            "train": recipe.model_copy(
                update={"lr": 1.0, "weight_decay": 0.0, "precision": "float32"}
            ),
            "seeds": spec.seeds.model_copy(update={"init": 0, "order": 0}),
        }
    )
    return canonical_json(own.model_dump(mode="json"))


def companions(
    key: str, spec: RunSpec, runs: Iterable[Keyed], store: Store, device: torch.device
) -> list[Keyed]:
    """The run and those of `runs` that can be trained with it; [] when it goes alone.

    A run that has a record, or a checkpoint to go on from, goes alone.
    """
    shared = fuse_key(spec, device)
    if shared is None:
        return []

    def fresh(key: str, spec: RunSpec) -> bool:
        folder = store.folder(key, spec)
        return not (folder.record_path.exists() or folder.checkpoint_path.exists())

    alike = [(k, s) for k, s in runs if fuse_key(s, device) == shared]
    found = [(k, s) for k, s in alike if fresh(k, s)][:MOST_HEADS]
    return found if len(found) > 1 and key in dict(found) else []


# --- a fused group -------------------------------------------------------------------------------


class Together:
    """Trains the classifiers of groups together and publishes each run's own record.

    A group that is stopped starts again the next time. Whatever else goes wrong sends its runs on
    to be tried one by one, which finds out which of them it was and keeps its reason.

    Args:
        store: where results go.
        device: gives the device where runs are trained.
        begin: gives the execution of a run.
        report: receives events, see `bench.runs.execute.execute_batch`.
        should_stop: asked after every step.

    Attributes:
        dealt: ids of the runs that need no other attempt.
        stopped: `should_stop` became true.
    """

    def __init__(
        self,
        store: Store,
        device: Callable[[], torch.device],
        begin: Callable[[RunFolder, RunSpec], Execution],
        report: Report,
        should_stop: Callable[[], bool],
    ) -> None:
        self.store, self.device, self.begin = store, device, begin
        self.report, self.should_stop = report, should_stop
        self.dealt: set[str] = set()
        self.alone: set[str] = set()
        self.stopped = False

    def attempt(self, key: str, spec: RunSpec, runs: Iterable[Keyed]) -> None:
        """Trains a run with those of `runs` that go with it, if there are any."""
        if key in self.dealt | self.alone:
            return
        others = [run for run in runs if run[0] not in self.dealt]
        try:
            group = companions(key, spec, others, self.store, self.device())
        except BenchError:  # there is no such device, as its own attempt shows
            return
        if not group:
            return
        self.alone |= {k for k, _ in group}
        with ExitStack() as claims:
            members = self._claimed(group, claims)
            try:
                finished = _train(members, self.should_stop) if len(members) > 1 else []
            except Interrupted:
                self.stopped = True
                for member in members:
                    self._ended(member, "stopped")
                return
            except _NotTogether:
                return
            except Exception as error:
                if failure_of(error).reason == GPU_FAULT:
                    raise GpuFaultError(str(error)) from error
                why = f"{type(error).__name__}: {error}"
                text = f"trained alone, as it could not be trained with others: {why}"
                self.report({"event": "note", "id": key, "message": text})
                return
            for member, one in zip(members, finished, strict=False):
                try:
                    status = publish(one(), member.folder, member.context)
                except Exception:  # the next attempt, alone, shows what is wrong with it
                    continue
                self.dealt.add(member.folder.run_id)
                self._ended(member, status)

    def _claimed(self, group: Sequence[Keyed], claims: ExitStack) -> list[Execution]:
        """Those that no other process executes."""
        members = []
        for key, spec in group:
            folder = self.store.folder(key, spec)
            with suppress(BenchError, OSError):  # its own attempt shows what is wrong with it
                if claims.enter_context(folder.claim()) and folder.record() is None:
                    members.append(self.begin(folder, spec))
        for member in members if len(members) > 1 else []:
            self.report({"event": "started", "id": member.folder.run_id})
        return members

    def _ended(self, member: Execution, status: str) -> None:
        key = member.folder.run_id
        self.report({"event": "ended", "id": key, "status": status, "message": ""})


Labels = np.ndarray[Any, np.dtype[np.int64]]
Later = Callable[[], Finished]
"""Gives a finished run, whose classifier is then put into the common network."""


def _train(members: Sequence[Execution], should_stop: Callable[[], bool]) -> list[Later]:
    begun = time.monotonic()
    first = members[0]
    begin_measuring(first.device)
    state = first.parent_state()
    for member in members:
        member.check_identity()
    model = first.network(state)
    frozen = layers.frozen_fingerprint(model, first.spec.layers)
    methods = [build_method(m.spec, m.data, model, m.context) for m in members]
    cut, classifier = _cut(first, model, methods[0], frozen)
    starts = [_classifier(model)] + [_classifier(m.network(state)) for m in members[1:]]
    training, validation = _feeds(first, model, methods[0], cut)
    outcomes = train_heads(
        *training,
        [
            Head(*start, m.spec.train, *_rates(model, m.spec), _order(method))
            for m, method, start in zip(members, methods, starts, strict=True)
        ],
        validation=validation,
        should_stop=should_stop,
        on_epoch=lambda k, epoch: members[k].report_epoch(epoch),
    )
    first.check_frozen(model, frozen)
    seconds = (time.monotonic() - begun) / len(members)

    def later(member: Execution, outcome: HeadOutcome) -> Finished:
        if outcome.weight is not None and outcome.bias is not None:
            with torch.no_grad():
                classifier.weight.copy_(outcome.weight)
                classifier.bias.copy_(outcome.bias)
        others = " ".join(m.folder.run_id[:12] for m in members if m is not member)
        text = f"with {len(members) - 1} other runs, seconds are its share: {others}"
        return Finished(
            member.spec,
            member.data,
            model,
            _outcome(outcome, seconds, first.device),
            past_prefix=cut.test_scores,
            sharing={**cut.notes, "fused": text},
        )

    return [partial(later, *pair) for pair in zip(members, outcomes, strict=True)]


def _feeds(
    member: Execution, model: nn.Module, method: Method, cut: FrozenPrefix
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Labels] | None]:
    """Kept activations and labels of the training images, and of those for validation."""
    recipe = member.spec.train
    plain = FeedOptions(member.device, recipe.channels_last, recipe.precision)
    training = Feed(method.domains[0], plain, cut.prefix)
    held = member.data.domain("val", model)
    validation = Feed(held, plain, cut.prefix) if held.size else None
    if recipe.select == "best_val" and validation is None:
        raise _NotTogether  # by itself it ends with the reason
    cut([training], validation)
    if not cut.notes["prefix"].startswith("cached"):
        raise _NotTogether
    kept = training.plain_batch(0, training.domain.size), training.labels
    if validation is None:
        return kept, None
    return kept, (validation.plain_batch(0, held.size), held.labels)


def _cut(
    member: Execution, model: nn.Module, method: Method, frozen: str
) -> tuple[FrozenPrefix, nn.Linear]:
    """The network up to the input of its classifier, which must be one linear map and the end."""
    spec, pattern = member.spec, member.spec.layers
    assert member.activations is not None
    set_modes = layers.freeze_modes(model, pattern, spec.train.frozen_dropout)
    model.to(member.device)
    if spec.train.channels_last:
        model.to(memory_format=torch.channels_last)
    name, classifier = _linear(model)
    if member.data.views != 1 or spec.train.head != "random":
        raise _NotTogether
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    if trained != {f"{name}.weight", f"{name}.bias"}:
        raise _NotTogether
    trunk = Trunk(model, classifier)

    def prefix(images: Tensor) -> Tensor:
        with torch.no_grad():
            return trunk(images)  # type: ignore[no-any-return]

    domain = method.domains[0]
    feed = Feed(domain, FeedOptions(member.device, spec.train.channels_last, resident=False))
    model.eval()
    with torch.no_grad():
        images = feed.plain_batch(0, min(2, domain.size))
        features = prefix(images)
        if features.ndim != 2 or not torch.equal(classifier(features), model(images)):
            raise _NotTogether
    cut = FrozenPrefix(
        model,
        prefix,
        classifier,
        layers=pattern.depth - 1,
        depth=pattern.depth,
        share=1.0,
        identity=f"classifier's input|{spec.model.model_dump_json()}|{frozen}",
        recipe=spec.train,
        store=member.activations,
        set_modes=set_modes,
        first_steps=lambda: method.steps(0, _no_prediction),
    )
    return cut, classifier


def _linear(model: nn.Module) -> tuple[str, nn.Linear]:
    """The one layer with weights of the classifier, and its name."""
    name = classifier_name(model)
    parts = model.get_submodule(name).named_modules(prefix=name)
    found = [(part, module) for part, module in parts if list(module.parameters(False))]
    if len(found) != 1 or not isinstance(found[0][1], nn.Linear) or found[0][1].bias is None:
        raise _NotTogether
    return found[0][0], found[0][1]


def _classifier(model: nn.Module) -> tuple[Tensor, Tensor]:
    _, found = _linear(model)
    return found.weight.detach().clone(), found.bias.detach().clone()


def _rates(model: nn.Module, spec: RunSpec) -> tuple[tuple[float, float], tuple[float, float]]:
    """(lr, weight decay) of the classifier's weight and of its bias."""
    name, found = _linear(model)[0], {}
    for group in layers.parameter_groups(model, spec.layers, spec.train):
        for parameter in group["names"]:
            found[parameter] = (float(group["lr"]), float(group["weight_decay"]))
    return found[f"{name}.weight"], found[f"{name}.bias"]


def _order(method: Method) -> Callable[[int], list[Labels]]:
    return lambda epoch: [part.indices for (part,) in method.steps(epoch, _no_prediction)]


def _outcome(head: HeadOutcome, seconds: float, device: torch.device) -> Outcome:
    return Outcome(
        status="done" if head.status == "done" else "diverged",
        history=head.history,
        best_epoch=head.best_epoch,
        state={},
        steps=head.steps,
        images_seen=head.images_seen,
        seconds=seconds,
        peak_memory_bytes=peak_memory_bytes(device),
        diverged_epoch=head.diverged_epoch,
    )
