"""One batch to records: the only place where data, network and method are put together.

The local pool and a cluster's jobs call the same function on the same runs. Each run publishes as
it ends; one failure does not touch its siblings; what is published already is skipped.

A run goes through stages, each a function of what the one before gave: an `Execution`, a training
(`_train`, of a method on features `_fit`), the second one of `train.refit`, a record (`publish`).
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from bench.core.errors import BenchError
from bench.exports.tensorboard import LiveScalars
from bench.methods import METHODS
from bench.models import layers
from bench.models.tuning import add_low_rank, merge, merged_state, unfreezing
from bench.results.failures import GPU_MEMORY, Failure, GpuFaultError, failure_of
from bench.results.store import GPU_FAULT, RunFolder, Store
from bench.runs.averaged import averaged
from bench.runs.build import (
    Context,
    Loader,
    assemble_network,
    build_method,
    classes_of_parent,
    fit_features,
)
from bench.runs.distributed import Report, execute_ranks
from bench.runs.execution import Execution
from bench.runs.fused_heads import Together, prefix_of
from bench.runs.parents import bank_network
from bench.runs.probed_head import probe_head
from bench.runs.provenance import selected_images
from bench.runs.record import Finished, publish
from bench.runs.refit import both_trainings, second_job
from bench.runs.untested import trained_untested
from bench.specs.run import RunSpec
from bench.training.activations import ActivationStore
from bench.training.data_parallel import Team
from bench.training.domain_batches import BATCH_SIZE, most_images_per_pass
from bench.training.frozen_prefix_cache import FrozenPrefix
from bench.training.job import Interrupted, Method, Outcome, TrainingJob, unshared
from bench.training.loop import train
from bench.training.precision import native_precision
from bench.training.process import begin_measuring, deterministic

_MOST_PASSES = 16
"""Forward passes that a step is cut into where the memory of the GPU is short."""

_FEWEST_IMAGES = 8
"""Of a forward pass without gradients, where the memory of the GPU is short."""


def execute_batch(
    runs: Sequence[tuple[str, RunSpec]],
    context: Context,
    *,
    report: Report,
    should_stop: Callable[[], bool],
    is_wanted: Callable[[str], bool] = lambda key: True,
) -> None:
    """Runs what is not published yet, one after the other.

    Args:
        runs: (id, spec) of runs that share parent, data and network.
        context: see `Context`.
        report: receives `{"event": "started" | "epoch" | "ended", "id": …}`; an ended run has a
            `status`: done, diverged, failed, already (published before), elsewhere (another
            process executes it) or stopped; `gpu_fault` is whether the GPU failed it.
            `{"event": "note", "id", "message"}` says that a finished run is trained again because
            its files are gone.
        should_stop: asked after every step; true ends with a checkpoint.
        is_wanted: asked of each run's id just before its turn.

    Raises:
        GpuFaultError: once the run that met it was reported as failed.
    """
    store = Store(Path(context.results))
    load = Loader(context)
    room = context.activation_bytes if context.share else (0, 0)
    kept = ActivationStore(store.cache, *room) if context.gpus == 1 else None

    def begin(folder: RunFolder, spec: RunSpec) -> Execution:
        scalars = LiveScalars(folder) if context.tensorboard else None
        data = load(spec)
        return Execution(folder, spec, data, context, report, should_stop, kept, scalars=scalars)

    together = Together(store, context.torch_device, begin, report, should_stop)
    for key, spec in runs:
        if should_stop():
            return
        if not is_wanted(key):
            continue
        if kept is not None and context.share:
            together.attempt(key, spec, [run for run in runs if is_wanted(run[0])])
            if together.stopped:
                return
            if key in together.dealt:
                continue
        status, message, reason = _claim(store.folder(key, spec), spec, begin, report)
        fault = reason == GPU_FAULT
        report(
            {"event": "ended", "id": key, "status": status, "message": message, "gpu_fault": fault}
        )
        if fault:
            raise GpuFaultError(message)
        if status == "stopped":
            return


def _claim(
    folder: RunFolder,
    spec: RunSpec,
    begin: Callable[[RunFolder, RunSpec], Execution],
    report: Report,
) -> tuple[str, str, str]:
    """`_attempt`, if no other process executes the run."""
    with contextlib.ExitStack() as stack:
        try:
            mine = stack.enter_context(folder.claim())
        except (BenchError, OSError) as error:  # there is no room even for a lock
            return "failed", failure_of(error, folder.path).summary, ""
        if not mine:
            return "elsewhere", folder.holder(), ""
        report({"event": "started", "id": folder.run_id})
        return _attempt(folder, spec, begin, report)


def _attempt(
    folder: RunFolder,
    spec: RunSpec,
    begin: Callable[[RunFolder, RunSpec], Execution],
    report: Report,
) -> tuple[str, str, str]:
    """One try of one run; its status, a message, and the reason of a failure.

    Whatever goes wrong is kept beside the run and does not spread.
    """
    try:
        record = folder.record()
        damage = folder.damage(record) if record is not None else []
        if record is not None and not damage:
            status = str(record["row"]["status"])
            return ("already" if status == "done" else status), "", ""
        if damage:  # who gave the run to this process needs its files
            text = f"trained again to have its files back: {', '.join(damage)}"
            report({"event": "note", "id": folder.run_id, "message": text})
        return _execute(begin(folder, spec)), "", ""
    except Interrupted:
        return "stopped", "", ""
    except Exception as error:
        why = failure_of(error, folder.path)
        unkept = folder.add_failure({"run_id": folder.run_id, **why.to_keep()})
        return "failed", "; ".join(part for part in (why.summary, unkept) if part), why.reason


def execute_rank(
    key: str,
    spec: RunSpec,
    context: Context,
    report: Report,
    should_stop: Callable[[], bool],
    team: Team,
) -> str:
    """One run by one of the processes that train it together (`bench.runs.distributed`); its
    status.

    The first of the team publishes. Who started them holds the claim, and keeps failures.
    """
    folder, data = Store(Path(context.results)).folder(key, spec), Loader(context)(spec)
    scalars = LiveScalars(folder) if context.tensorboard and team.leads else None
    run = Execution(folder, spec, data, context, report, should_stop, team=team, scalars=scalars)
    return _execute(run)


def _execute(run: Execution) -> str:
    """Trains, evaluates, checks the invariants, publishes; the run's status.

    Where the memory of the GPU does not suffice it is tried again with less of it, see `_saving`.
    """
    while True:
        try:
            return _execute_once(run)
        except Exception as error:
            failure = failure_of(error, run.folder.path)
            less = _saving(run, failure)
            if less is None or run.team.size > 1:
                raise
        run = replace(run, context=less, activations=run.activations and run.activations.emptied())
        text = f"{failure.summary.splitlines()[0]}; tried again {_savings(less)}"
        run.report({"event": "note", "id": run.folder.run_id, "message": text})
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _saving(run: Execution, failure: Failure) -> Context | None:
    """The context with which a run takes less GPU memory; None where nothing more can be saved.

    First the images leave the GPU. Then a step is cut into more passes, which add up to the same,
    if it was a step that failed; else forward passes without gradients have fewer images.
    """
    context = run.context
    if failure.reason != GPU_MEMORY:
        return None
    if context.resident and not run.is_on_features:
        return replace(context, resident=False)
    if failure.in_step:
        more = 2 * context.passes
        return replace(context, passes=more) if more <= _MOST_PASSES else None
    fewer = context.forward_images // 2
    return replace(context, forward_images=fewer) if fewer >= _FEWEST_IMAGES else None


def _savings(context: Context) -> str:
    """How GPU memory is saved."""
    ways = [] if context.resident else ["the images in host memory"]
    if context.passes > 1:
        ways.append(f"{context.passes} forward passes for each one")
    if context.forward_images < BATCH_SIZE:
        ways.append(f"at most {context.forward_images} images in a pass without gradients")
    return f"with {' and '.join(ways)}" if ways else ""


def _noted(finished: Finished, context: Context) -> Finished:
    """The same with a note for the record of how GPU memory was saved, if it was."""
    savings = _savings(context)
    if not savings:
        return finished
    bits = context.forward_images < BATCH_SIZE
    other = ", which can move the last bits of features and scores" if bits else ""
    note = f"the GPU has too little memory: executed {savings}{other}"
    outcome = finished.outcome
    return replace(finished, outcome=replace(outcome, notes=(note, *outcome.notes)))


def _check_batch_norm(model: nn.Module) -> None:
    """Refuses smaller forward passes where they would change what is computed.

    Raises:
        BenchError: BatchNorm that is trained sees each pass by itself.
    """
    if any(isinstance(m, _BatchNorm) and m.training for m in model.modules()):
        raise BenchError(
            "the GPU has too little memory for this run, and smaller forward passes would change "
            "the statistics of its BatchNorm",
            hint="halve train.batch_size and double train.accumulate, which is another condition; "
            "or train with --gpus 2, or on a GPU with more memory",
        )


def _execute_once(run: Execution) -> str:
    """One attempt of `_execute`."""
    if run.team.size < run.context.gpus:
        key = run.folder.run_id
        return execute_ranks(key, run.spec, run.context, run.report, run.should_stop)
    begin_measuring(run.device)
    run.check_identity()
    few = most_images_per_pass(run.context.forward_images)
    with deterministic(run.device, run.spec.train.deterministic), few:
        average = METHODS[run.spec.method.name].kind == "weights"
        finished = averaged(run) if average else trained_untested(run) or _trained(run)
        status = finished.outcome.status
        if run.spec.train.refit and status == "done" and not run.is_on_features:
            finished = _trained_again(run, finished)
            status = finished.outcome.status
        finished = _noted(finished, run.context)
        return publish(finished, run.folder, run.context) if run.team.leads else status


def _trained(run: Execution, chosen: Outcome | None = None) -> Finished:
    """A network from before its first step to after its last.

    Args:
        run: the run.
        chosen: of the first training, if this is the second of `train.refit`.
    """
    model = run.network(run.parent_state())
    frozen = layers.frozen_fingerprint(model, run.spec.layers)
    finished = _fit(run, model) if run.is_on_features else _train(run, model, frozen, chosen)
    run.check_frozen(model, frozen)
    return finished


def _trained_again(run: Execution, first: Finished) -> Finished:
    """The weights of the second training of `train.refit`, with what the first one chose."""
    joined = run.data.joined()
    second = _trained(replace(run, data=joined), first.outcome)
    images = len(joined.loaded.train)
    outcome = both_trainings(first.outcome, second.outcome, images, second.notes)
    return replace(second, data=run.data, outcome=outcome, notes=first.notes)


def _fit(run: Execution, model: nn.Module) -> Finished:
    fitted = fit_features(run.spec, run.data, model, run.context, run.folder.path, run.should_stop)
    return Finished(
        run.spec,
        run.data,
        model,
        fitted.outcome,
        notes=fitted.notes,
        scorer=fitted.model,
        logits=fitted.logits,
        files=fitted.files,
    )


def _train(run: Execution, model: nn.Module, frozen: str, chosen: Outcome | None) -> Finished:
    began = [probe_head(run, model)] if run.spec.train.head == "probe" else []
    bank = bank_network(run.spec, run.context)
    method = build_method(run.spec, run.data, model, run.context, bank)
    run.check_inputs(method.domains)
    job, prefix = _job(run, model, method, frozen)
    if chosen is not None:
        job = second_job(job, chosen, run.folder)
    before = 0 if chosen is None else len(chosen.history)
    outcome = train(replace(job, on_epoch=lambda epoch: run.report_epoch(epoch, before)))
    outcome = replace(outcome, notes=(*began, *outcome.notes))
    trainable = layers.trainable_parameters(model)
    if run.spec.train.tuned == "lora":
        state, *kept = (merged_state(job.model, s) for s in (outcome.state, *outcome.kept))
        outcome = replace(outcome, state=state, kept=tuple(kept))
        merge(job.model)
    return Finished(
        run.spec,
        run.data,
        model,
        outcome,
        notes=method.notes(outcome.history),
        files=selected_images(method, run.data),
        trained=job.model,
        trainable=trainable,
        past_prefix=None if prefix is None else prefix.test_scores,
        sharing=prefix.notes if prefix is not None and run.context.share else {},
    )


def _job(
    run: Execution, model: nn.Module, method: Method, frozen: str
) -> tuple[TrainingJob, FrozenPrefix | None]:
    """The training, and the frozen layers whose activations are kept, if there are any."""
    spec, recipe = run.spec, run.spec.train
    network = assemble_network(
        spec,
        model,
        method,
        run.data,
        run.parent_state,
        lambda: classes_of_parent(spec, run.context),
    )
    validation = run.data.domain("val", model)
    set_modes = layers.freeze_modes(
        model,
        spec.layers,
        recipe.frozen_dropout,
        fixed_statistics=recipe.copied_statistics == "fixed",
    )
    prefix = None
    if run.activations is not None and network.forward is None:
        prefix = prefix_of(spec, model, method, frozen, run.activations, set_modes, run.device)
    past = {} if prefix is None else prefix.job()
    stage = unfreezing(model, spec.layers, recipe.unfreeze_every)
    if recipe.tuned == "lora":
        products = add_low_rank(model, spec.layers, recipe, spec.seeds.init)
        network = replace(network, groups=network.groups + products)
    if run.context.passes > 1:
        network.module.train()
        set_modes()
        _check_batch_norm(network.module)
    precision = [native_precision(run.device)] if recipe.precision == "auto" else []
    job = TrainingJob(
        model=network.module,
        method=method,
        groups=network.groups,
        forward=past.get("forward", network.forward),
        prefix=past.get("prefix"),
        share=past.get("share", unshared),
        train=recipe.model_copy(update={"accumulate": recipe.accumulate * run.context.passes}),
        order_seed=spec.seeds.order,
        validation=validation if validation.size else None,
        device=run.device,
        set_modes=set_modes,
        stage=stage,
        identity=" ".join([run.folder.run_id, *precision]),
        checkpoint=run.folder.checkpoint_path,
        checkpoint_every_s=run.context.checkpoint_s,
        should_stop=run.should_stop,
        keep_before=tuple(getattr(method, "fused", ())),
        keep_end=recipe.refit,
        team=run.team,
        resident=run.context.resident,
    )
    return job, prefix
