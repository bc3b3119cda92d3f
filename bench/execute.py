"""One batch to records: the only place where data, network and method are put together.

The local pool and a cluster's jobs call the same function on the same runs. Each run publishes as
it ends; one failure does not touch its siblings; what is published already is skipped.
"""

from __future__ import annotations

import io
import shutil
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor, nn

from bench.assembly import (
    Context,
    Data,
    Loader,
    assemble_network,
    build_method,
    classes_of_parent,
    fit_features,
)
from bench.errors import BenchError, StoreError
from bench.methods import METHODS
from bench.models import layers, weights
from bench.models.tuning import tune_only
from bench.provenance import borrowed_record, device_name, overlap_with_tests
from bench.records import describe_run
from bench.spec import FromRun, RunSpec, Scratch, run_id
from bench.store import RunFolder, Store, file_digest, write_atomic
from bench.training import evaluate
from bench.training.domain import Domain
from bench.training.job import EpochReport, Interrupted, Method, Outcome, TrainingJob
from bench.training.loop import train

__all__ = ["Context", "execute_batch"]

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
            process has it in hand) or stopped.
        should_stop: asked after every step; true ends with a checkpoint.
    """
    store = Store(Path(context.results))
    load = Loader(context)
    for key, spec in runs:
        if should_stop():
            return
        folder = store.folder(key, spec)
        with folder.claim() as mine:
            if not mine:
                report({"event": "ended", "id": key, "status": "elsewhere"})
                continue
            report({"event": "started", "id": key})
            status, message = _attempt(folder, spec, context, load, report, should_stop)
        report({"event": "ended", "id": key, "status": status, "message": message})
        if status == "stopped":
            return


def _attempt(
    folder: RunFolder,
    spec: RunSpec,
    context: Context,
    load: Callable[[RunSpec], Data],
    report: Report,
    should_stop: Callable[[], bool],
) -> tuple[str, str]:
    """One try of one run; whatever goes wrong is kept beside it and does not spread."""
    try:
        record = folder.record()
        if record is not None:
            status = str(record["row"]["status"])
            return ("already" if status == "done" else status), ""
        status = _Run(folder, spec, context, load(spec), report, should_stop).execute()
        return status, ""
    except Interrupted:
        return "stopped", ""
    except torch.cuda.OutOfMemoryError as error:
        return _failed(folder, "out of memory", str(error))
    except MemoryError as error:
        return _failed(folder, "out of memory", str(error))
    except BenchError as error:
        return _failed(folder, type(error).__name__, str(error))
    except Exception as error:
        return _failed(folder, type(error).__name__, traceback.format_exc())


def _failed(folder: RunFolder, reason: str, message: str) -> tuple[str, str]:
    folder.add_failure({"run_id": folder.run_id, "reason": reason, "message": message})
    last = message.strip().splitlines()[-1] if message.strip() else reason
    return "failed", last


class _Run:
    """One run, from spec to published record."""

    def __init__(
        self,
        folder: RunFolder,
        spec: RunSpec,
        context: Context,
        data: Data,
        report: Report,
        should_stop: Callable[[], bool],
    ) -> None:
        self.folder, self.spec, self.context, self.data = folder, spec, context, data
        self.report, self.should_stop = report, should_stop
        self.device = context.torch_device()
        self.trained: nn.Module | None = None
        self.scorer: nn.Module | None = None
        self.logits = True

    def execute(self) -> str:
        """Trains, evaluates, checks the invariants, publishes; the run's status."""
        self._check_identity()
        model = layers.create(
            self.spec.model,
            self._outputs(),
            seed=self.spec.seeds.init,
            image_size=self.spec.data.image_size,
        )
        pattern = self.spec.layers
        layers.apply_pattern(model, pattern, self._parent_state())
        tune_only(model, pattern, self.spec.train.tuned)
        frozen = layers.frozen_fingerprint(model, pattern)
        outcome, said = self._fit(model) if self._on_features() else self._train(model)
        if layers.frozen_fingerprint(model, pattern) != frozen:
            raise BenchError(
                "a frozen layer changed during training", hint="this is a bug; please report it"
            )
        published = self.folder.record()
        if published is not None:  # executed elsewhere at the same time: its files stay as they are
            self._remove_checkpoint()
            return str(published["row"]["status"])
        row = self._row(outcome, self.scorer or model)
        files = self._write_files(model, outcome, row)
        notes: dict[str, Any] = {
            "data": dict(self.data.loaded.notes),
            "training": list(outcome.notes),
            "method": said,
        }
        record = {
            "run_id": self.folder.run_id,
            "row": row,
            "files": files,
            "classes": list(self.data.loaded.classes),
            "images": self.data.resolved.fingerprint,
            "notes": notes,
            **borrowed_record(self.data),
        }
        self.folder.publish(record, outcome.history, self.spec)
        self._remove_checkpoint()
        return str(row["status"])

    def _train(self, model: nn.Module) -> tuple[Outcome, dict[str, Any]]:
        method = build_method(self.spec, self.data, model, self.context)
        job = self._job(model, method)
        self.trained = job.model
        outcome = train(job)
        return outcome, dict(method.notes(outcome.history))

    def _fit(self, model: nn.Module) -> tuple[Outcome, dict[str, Any]]:
        fitted = fit_features(self.spec, self.data, model, self.context, self.folder.path)
        self.scorer, self.logits = fitted.model, fitted.logits
        return fitted.outcome, fitted.notes

    def _on_features(self) -> bool:
        return METHODS[self.spec.method.name].kind == "features"

    # --- before ---

    def _outputs(self) -> int:
        """Classes of the network's own classifier; of a copied one that is not trained, its own."""
        if self._on_features() and self.spec.layers.kind(self.spec.layers.depth) != "R":
            return len(classes_of_parent(self.spec, self.context) or self.data.loaded.classes)
        return len(self.data.loaded.classes)

    def _check_identity(self) -> None:
        """The images here must be those that the run was planned with."""
        found = run_id(self.spec, self.context.fingerprint)
        if found != self.folder.run_id:
            raise StoreError(
                "the images are not those that this run was planned with",
                place=str(self.folder.path),
                hint="the data set changed since; plan again with bench grid",
            )

    def _parent_state(self) -> Mapping[str, Tensor] | None:
        match self.spec.init:
            case Scratch():
                return None
            case FromRun(run=parent):
                return self._trained(parent)
            case other:
                return weights.load_state(
                    other, self.spec.model.name, image_size=self.spec.data.image_size
                )

    def _parent_folder(self, parent: RunSpec) -> RunFolder:
        key = run_id(parent, self.context.fingerprint)
        return Store(Path(self.context.results)).folder(key, parent)

    def _trained(self, parent: RunSpec) -> Mapping[str, Tensor]:
        """The weights of the parent, from its published record only."""
        folder = self._parent_folder(parent)
        record = folder.record()
        if record is None or record["row"]["status"] != "done":
            raise StoreError(
                "the run to start from has no result",
                place=str(folder.path),
                hint="it must be done first; see bench status",
            )
        if file_digest(folder.weights_path) != record["files"].get(folder.weights_path.name):
            raise StoreError(
                "these weights are not those that the record names",
                place=str(folder.weights_path),
                hint="delete the folder to have the run repeated",
            )
        return weights.read_state(folder.weights_path)

    def _job(self, model: nn.Module, method: Method) -> TrainingJob:
        spec, recipe = self.spec, self.spec.train
        network = assemble_network(
            spec,
            model,
            method,
            self.data,
            self._parent_state,
            lambda: classes_of_parent(spec, self.context),
        )
        validation = self.data.domain("val", model)
        return TrainingJob(
            model=network.module,
            method=method,
            groups=network.groups,
            forward=network.forward,
            train=recipe,
            order_seed=spec.seeds.order,
            validation=validation if validation.size else None,
            device=self.device,
            set_modes=layers.freeze_modes(model, spec.layers, recipe.frozen_dropout),
            identity=self.folder.run_id,
            checkpoint=self.folder.checkpoint_path,
            checkpoint_every_s=self.context.checkpoint_s,
            should_stop=self.should_stop,
            on_epoch=self._on_epoch,
            restarts=tuple(getattr(method, "restarts", ())),
            keep_before=tuple(getattr(method, "fused", ())),
        )

    def _on_epoch(self, epoch: EpochReport) -> None:
        self.report(
            {
                "event": "epoch",
                "id": self.folder.run_id,
                "epoch": epoch.epoch + 1,
                "epochs": epoch.epochs,
                "val_top1_accuracy": epoch.val_top1_accuracy,
            }
        )

    # --- after ---

    def _row(self, outcome: Outcome, model: nn.Module) -> dict[str, Any]:
        """The leaderboard columns that the run itself knows."""
        spec, loaded, history = self.spec, self.data.loaded, outcome.history
        best = None if outcome.best_epoch is None else history[outcome.best_epoch]
        row: dict[str, Any] = describe_run(spec) | {
            "status": outcome.status,
            "target_classes": len(loaded.classes),
            "val_top1_accuracy": best["val_top1_accuracy"] if best else None,
            "train_loss": history[-1]["train_loss"] if history else None,
            "best_epoch": None if outcome.best_epoch is None else outcome.best_epoch + 1,
            "epochs_run": len(history),
            "epochs_to_threshold": evaluate.epochs_to_threshold(history, spec.train.threshold),
            "steps": outcome.steps,
            "train_images": len(loaded.train),
            "val_images": len(loaded.val),
            "test_images": len(loaded.test),
            "trainable_parameters": layers.trainable_parameters(model),
            "borrowed_classes": sum(i.classes_used for _, i in self.data.borrowed) or None,
            "borrowed_images": sum(len(i.rows) for _, i in self.data.borrowed) or None,
            "source_test_overlap": overlap_with_tests(self.spec, self.data, self.context),
            "seconds": outcome.seconds,
            "images_per_s": outcome.images_seen / max(outcome.seconds, 1e-9),
            "peak_memory_mib": outcome.peak_memory_bytes / 2**20,
            "device": device_name(self.device),
            "threads": torch.get_num_threads(),
            "versions": f"torch {torch.__version__}, timm {timm.__version__}",
        }
        if outcome.status == "diverged":
            row["reason"] = (
                f"loss not finite or exploded in epoch {(outcome.diverged_epoch or 0) + 1}"
            )
        if best is not None and self._on_features():  # its history has a row per C, not per epoch
            row |= {"train_loss": best["train_loss"], "best_epoch": None, "epochs_run": None}
            row["epochs_to_threshold"] = None
        return {key: None if _not_finite(value) else value for key, value in row.items()}

    def _write_files(
        self, model: nn.Module, outcome: Outcome, row: dict[str, Any]
    ) -> dict[str, str]:
        """Weights and predictions, and the test metrics computed from the latter."""
        self.folder.path.mkdir(parents=True, exist_ok=True)
        if outcome.status != "done":
            return {}
        test = self.data.domain("test", model)
        logits = self._test_scores(model, outcome, test)
        row["top1_accuracy"] = evaluate.top1_accuracy(logits, test.labels)
        row["mean_class_accuracy"] = evaluate.mean_class_accuracy(logits, test.labels)
        shares = evaluate.softmax(logits) if self.logits else logits
        row["mean_average_precision"] = evaluate.mean_average_precision(shares, test.labels)
        row["test_loss"] = evaluate.cross_entropy(logits, test.labels)
        weights.save_state(outcome.state if self.scorer else model, self.folder.weights_path)
        content = io.BytesIO()
        np.savez(content, logits=logits, labels=test.labels)
        write_atomic(self.folder.predictions_path, content.getvalue())
        paths = (self.folder.weights_path, self.folder.predictions_path)
        return {path.name: file_digest(path) for path in paths}

    def _test_scores(self, model: nn.Module, outcome: Outcome, test: Domain) -> evaluate.Logits:
        """Scores of the test images; log of the mean softmax where rounds are fused (GE-7)."""
        recipe = self.spec.train
        scorer = self.scorer or model

        def scores() -> evaluate.Logits:
            scorer.eval()
            return evaluate.predict(
                scorer,
                test,
                device=self.device,
                precision="float32" if self.scorer else recipe.precision,
                channels_last=recipe.channels_last,
            )

        if not outcome.kept or self.trained is None:
            return scores()
        shares = []
        for state in (*outcome.kept, outcome.state):  # the selected weights last: they stay
            self.trained.load_state_dict(state)
            shares.append(evaluate.softmax(scores()))
        fused: evaluate.Logits = np.log(np.mean(shares, axis=0).clip(1e-38))
        return fused

    def _remove_checkpoint(self) -> None:
        path = self.folder.checkpoint_path
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _not_finite(value: Any) -> bool:
    return isinstance(value, float) and not np.isfinite(value)
