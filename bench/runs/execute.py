"""One batch to records: the only place where data, network and method are put together.

The local pool and a cluster's jobs call the same function on the same runs. Each run publishes as
it ends; one failure does not touch its siblings; what is published already is skipped.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bench.core.errors import BenchError, StoreError
from bench.methods import METHODS
from bench.models import layers, weights
from bench.models.inputs import InputStatistics, attach, statistics_of
from bench.models.multiview import widen_classifier
from bench.models.tuning import tune_only
from bench.results.failures import failure_of
from bench.results.store import RunFolder, Store
from bench.runs.build import (
    Context,
    Data,
    Loader,
    assemble_network,
    build_method,
    classes_of_parent,
    fit_features,
)
from bench.runs.distributed import execute_ranks
from bench.runs.evaluation import verify_run
from bench.runs.fused_heads import Together, prefix_of
from bench.runs.parents import bank_network, trained_state
from bench.runs.provenance import borrowed_record
from bench.runs.record import Finished, row_of, write_files
from bench.runs.refit import both_trainings, second_job
from bench.specs.run import FromRun, RunSpec, Scratch, run_id
from bench.training.activations import ActivationStore
from bench.training.data_parallel import ALONE, Team
from bench.training.domain import Domain
from bench.training.frozen_prefix_cache import FrozenPrefix
from bench.training.job import EpochReport, Interrupted, Method, Outcome, TrainingJob, unshared
from bench.training.loop import train

Report = Callable[[dict[str, Any]], None]


def execute_batch(
    runs: Sequence[tuple[str, RunSpec]],
    context: Context,
    *,
    report: Report,
    should_stop: Callable[[], bool],
) -> None:
    """Runs what is not published yet, one after the other.

    Args:
        runs: (id, spec) of runs that share parent, data and network.
        context: see `Context`.
        report: is told `{"event": "started" | "epoch" | "ended", "id": …}`; an ended run has a
            `status`: done, diverged, failed, already (published before), elsewhere (another
            process has it in hand) or stopped. `{"event": "note", "id", "message"}` says that a
            finished run is trained again because its files are gone.
        should_stop: asked after every step; true ends with a checkpoint.
    """
    store = Store(Path(context.results))
    load = Loader(context)
    shares = context.share and context.gpus == 1
    kept = ActivationStore(store.cache, *context.activation_bytes) if shares else None
    make = functools.partial(
        _Run, context=context, report=report, should_stop=should_stop, kept=kept
    )
    together = Together(store, make, load, report, should_stop)
    for key, spec in runs:
        if should_stop():
            return
        if kept is not None:
            together.attempt(key, spec, runs)
            if together.stopped:
                return
            if key in together.dealt:
                continue
        folder = store.folder(key, spec)
        with folder.claim() as mine:
            if not mine:
                report({"event": "ended", "id": key, "status": "elsewhere"})
                continue
            report({"event": "started", "id": key})
            status, message = _attempt(folder, spec, load, make, report)
        report({"event": "ended", "id": key, "status": status, "message": message})
        if status == "stopped":
            return


def _attempt(
    folder: RunFolder,
    spec: RunSpec,
    load: Callable[[RunSpec], Data],
    make: Callable[..., _Run],
    report: Report,
) -> tuple[str, str]:
    """One try of one run; whatever goes wrong is kept beside it and does not spread."""
    try:
        record = folder.record()
        damage = folder.damage(record) if record is not None else []
        if record is not None and not damage:
            status = str(record["row"]["status"])
            return ("already" if status == "done" else status), ""
        if damage:  # who gave the run to this process needs its files
            text = f"trained again to have its files back: {', '.join(damage)}"
            report({"event": "note", "id": folder.run_id, "message": text})
        return make(folder, spec, data=load(spec)).execute(), ""
    except Interrupted:
        return "stopped", ""
    except Exception as error:
        why = failure_of(error)
        folder.add_failure({"run_id": folder.run_id, **why.to_keep()})
        return "failed", why.said


def execute_rank(key: str, spec: RunSpec, context: Context, **hands: Any) -> str:
    """One run by one of the processes that train it together (`bench.runs.distributed`); its
    status.

    The first of the team publishes. Who started them holds the claim, and keeps failures.
    """
    folder, data = Store(Path(context.results)).folder(key, spec), Loader(context)(spec)
    run = _Run(folder, spec, context=context, data=data, **hands)
    return run.execute()


class _Run:
    """One run, from spec to published record."""

    def __init__(
        self,
        folder: RunFolder,
        spec: RunSpec,
        *,
        context: Context,
        data: Data,
        report: Report,
        should_stop: Callable[[], bool],
        kept: ActivationStore | None = None,
        team: Team = ALONE,
    ) -> None:
        self.folder, self.spec, self.context, self.data = folder, spec, context, data
        self.report, self.should_stop = report, should_stop
        self.device = context.torch_device()
        self.trained: nn.Module | None = None
        self.scorer: nn.Module | None = None
        self.logits = True
        self.files: Mapping[str, bytes | Path] = {}
        self.kept, self.team = kept, team
        self.prefix: FrozenPrefix | None = None
        self.chosen: Outcome | None = None

    def execute(self) -> str:
        """Trains, evaluates, checks the invariants, publishes; the run's status."""
        if self.team.size < self.context.gpus:
            hands = self.report, self.should_stop
            return execute_ranks(self.folder.run_id, self.spec, self.context, *hands)
        self.check_identity()
        model, outcome, said = self._network_and_outcome()
        if self.spec.train.refit and outcome.status == "done" and not self._on_features():
            split, self.data, self.chosen = self.data, self.data.joined(), outcome
            model, second, more = self._network_and_outcome()
            outcome = both_trainings(outcome, second, len(self.data.loaded.train), more)
            self.data = split
        if not self.team.leads:
            return outcome.status
        finished = Finished(
            self.spec,
            self.data,
            model,
            outcome,
            trained=self.trained,
            scorer=self.scorer,
            logits=self.logits,
            past_prefix=None if self.prefix is None else self.prefix.test_scores,
            files=self.files,
        )
        return self.publish(finished, said, {} if self.prefix is None else self.prefix.notes)

    def _network_and_outcome(self) -> tuple[nn.Module, Outcome, dict[str, Any]]:
        """A network from before its first step to after its last, and what is said of it."""
        model = self.network(self.parent_state())
        frozen = layers.frozen_fingerprint(model, self.spec.layers)
        outcome, said = self._fit(model) if self._on_features() else self._train(model, frozen)
        if layers.frozen_fingerprint(model, self.spec.layers) != frozen:
            raise BenchError(
                "a frozen layer changed during training", hint="this is a bug; please report it"
            )
        return model, outcome, said

    def network(self, parent_state: Mapping[str, Tensor] | None) -> nn.Module:
        """The network before its first step: random, then what the pattern copies."""
        model = layers.create(
            self.spec.model,
            self._outputs(),
            seed=self.spec.seeds.init,
            image_size=self.spec.data.image_size,
        )
        attach(model, statistics_of(self.spec))
        widen_classifier(
            model,
            self.spec.model,
            1 if self._on_features() else self.data.views,  # features are of one image each
            seed=self.spec.seeds.init,
            image_size=self.spec.data.image_size,
        )
        pattern = self.spec.layers
        layers.apply_pattern(model, pattern, parent_state)
        tune_only(model, pattern, self.spec.train.tuned)
        return model

    def _train(self, model: nn.Module, frozen: str) -> tuple[Outcome, dict[str, Any]]:
        method = build_method(
            self.spec, self.data, model, self.context, bank_network(self.spec, self.context)
        )
        _check_inputs(method.domains, statistics_of(self.spec))
        job = self._job(model, method, frozen)
        self.trained = job.model
        outcome = train(job)
        return outcome, dict(method.notes(outcome.history))

    def _fit(self, model: nn.Module) -> tuple[Outcome, dict[str, Any]]:
        fitted = fit_features(
            self.spec, self.data, model, self.context, self.folder.path, self.should_stop
        )
        self.scorer, self.logits, self.files = fitted.model, fitted.logits, fitted.files
        return fitted.outcome, fitted.notes

    def _on_features(self) -> bool:
        return METHODS[self.spec.method.name].kind != "steps"

    # --- before ---

    def _outputs(self) -> int:
        """Classes of the network's own classifier; of a copied one that is not trained, its own."""
        if self._on_features() and self.spec.layers.kind(self.spec.layers.depth) != "R":
            return len(classes_of_parent(self.spec, self.context) or self.data.loaded.classes)
        if METHODS[self.spec.method.name].kind == "extraction":
            return 1  # random weights depend on it, and must be one network for all selections
        return len(self.data.loaded.classes)

    def check_identity(self) -> None:
        """The images here must be those that the run was planned with."""
        found = run_id(self.spec, self.context.fingerprint)
        if found != self.folder.run_id:
            raise StoreError(
                "the images are not those that this run was planned with",
                place=str(self.folder.path),
                hint="the data set changed since; plan again with bench grid",
            )

    def parent_state(self) -> Mapping[str, Tensor] | None:
        match self.spec.init:
            case Scratch():
                return None
            case FromRun(run=parent):
                return trained_state(parent, self.context)
            case other:
                return weights.load_state(
                    other, self.spec.model.name, image_size=self.spec.data.image_size
                )

    def _job(self, model: nn.Module, method: Method, frozen: str) -> TrainingJob:
        spec, recipe = self.spec, self.spec.train
        network = assemble_network(
            spec,
            model,
            method,
            self.data,
            self.parent_state,
            lambda: classes_of_parent(spec, self.context),
        )
        validation = self.data.domain("val", model)
        set_modes = layers.freeze_modes(model, spec.layers, recipe.frozen_dropout)
        if self.kept is not None and network.forward is None:
            self.prefix = prefix_of(spec, model, method, frozen, self.kept, set_modes, self.device)
        past = {} if self.prefix is None else self.prefix.job()
        job = TrainingJob(
            model=network.module,
            method=method,
            groups=network.groups,
            forward=past.get("forward", network.forward),
            prefix=past.get("prefix"),
            share=past.get("share", unshared),
            train=recipe,
            order_seed=spec.seeds.order,
            validation=validation if validation.size else None,
            device=self.device,
            set_modes=set_modes,
            identity=self.folder.run_id,
            checkpoint=self.folder.checkpoint_path,
            checkpoint_every_s=self.context.checkpoint_s,
            should_stop=self.should_stop,
            on_epoch=self.on_epoch,
            keep_before=tuple(getattr(method, "fused", ())),
            keep_end=recipe.refit,
            team=self.team,
        )
        return job if self.chosen is None else second_job(job, self.chosen, self.folder)

    def on_epoch(self, epoch: EpochReport) -> None:
        before = 0 if self.chosen is None else len(self.chosen.history)
        self.report(
            {
                "event": "epoch",
                "id": self.folder.run_id,
                "epoch": before + epoch.epoch + 1,
                "epochs": before + epoch.epochs,
                "val_top1_accuracy": epoch.val_top1_accuracy,
            }
        )

    # --- after ---

    def publish(
        self, finished: Finished, said: Mapping[str, Any], shared: Mapping[str, str]
    ) -> str:
        """Files first, then the record that names them; of two executions the first record stays.

        Where a record is there and its files are not, this execution was to bring them back: it
        does if it gives the same bytes, else its own record takes the place.
        """
        earlier = self.folder.record()
        damage = self.folder.damage(earlier) if earlier is not None else []
        if earlier is None or damage:
            row = row_of(finished, self.context)
            files = write_files(finished, self.folder, self.device, row)
            notes = {
                "data": dict(self.data.loaded.notes),
                "training": list(finished.outcome.notes),
                "method": dict(said),
            }
            if finished.outcome.refit:
                notes["refit"] = dict(finished.outcome.refit)
            if finished.outcome.status == "done":
                notes |= verify_run(finished.model, self.data, self.device, row)
            if shared:
                notes["sharing"] = dict(shared)
            if damage:
                notes["repeated"] = damage
            record = {
                "run_id": self.folder.run_id,
                "row": row,
                **files,
                "classes": list(self.data.loaded.classes),
                "images": self.data.resolved.fingerprint,
                "notes": notes,
                **borrowed_record(self.data),
            }
            if earlier is not None and self.folder.damage(earlier):
                self.folder.withdraw()
            self.folder.publish(record, finished.outcome.history, self.spec)
            self.folder.sweep()
        self._remove_checkpoints()
        published = self.folder.record()
        assert published is not None
        return str(published["row"]["status"])

    def _remove_checkpoints(self) -> None:
        for path in (self.folder.checkpoint_path, self.folder.refit_checkpoint_path):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def _check_inputs(domains: Sequence[Domain], weights: InputStatistics) -> None:
    """Images reach a network with the mean and deviation of the weights that it starts from."""
    for domain in domains:
        if (domain.mean, domain.std) != (weights.mean, weights.std):
            raise BenchError(
                f"images of {domain.name} would be normalised by {domain.mean} and {domain.std}, "
                f"the weights were trained with {weights.mean} and {weights.std}",
                hint="this is a bug; please report it",
            )
