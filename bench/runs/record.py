"""From a finished training to its record: the row's columns, and the files beside it."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import nn

from bench.core.files import temporary_beside
from bench.data.dataset import Image
from bench.exports.tensorboard import write_scalars
from bench.methods import METHODS
from bench.models import layers, weights
from bench.models.multiview import viewing
from bench.results.records import COST_COLUMNS, describe_run
from bench.results.store import Kept, RunFolder
from bench.runs.build import Context, Data
from bench.runs.evaluation import verify_run
from bench.runs.provenance import (
    arithmetic,
    borrowed_record,
    device_name,
    overlap_with_tests,
    resolved_settings,
)
from bench.specs.run import RunSpec
from bench.training import evaluation as evaluate
from bench.training.domain import Domain
from bench.training.job import Outcome


@dataclass(frozen=True, eq=False)
class Finished:
    """A run whose training has ended.

    Attributes:
        spec, data: the run and its images.
        model: its network, with the weights kept.
        outcome: of the training.
        notes: the method's own, for the record.
        trained: the module that was trained, when it has more classifiers than `model`.
        trainable: parameters that training may change; None counts those of the network.
        scorer: what scores images, when that is not `model`.
        logits: whether the softmax of the scores is a probability.
        past_prefix: scores images from kept activations of frozen layers: the scores of the whole
            network, but for last bits where the size of a batch decides how it is computed.
        sharing: what the run shared with others, for the record.
        files: what the method publishes besides, as name (`features.npz`) and bytes, or a finished
            file in the run's folder.
        earlier: the record of the run that trained these weights; None where they were trained
            here.
    """

    spec: RunSpec
    data: Data
    model: nn.Module
    outcome: Outcome
    notes: Mapping[str, Any] = field(default_factory=dict)
    trained: nn.Module | None = None
    trainable: int | None = None
    scorer: nn.Module | None = None
    logits: bool = True
    past_prefix: Callable[[Domain], evaluate.Logits] | None = None
    sharing: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, bytes | Path] = field(default_factory=dict)
    earlier: Mapping[str, Any] | None = None


def publish(run: Finished, folder: RunFolder, context: Context) -> str:
    """Files first, then the record that names them; gives the status of the published record.

    Of two executions the first record stays. Where a record is there and its files are not, this
    execution was to bring them back: it does if it gives the same bytes, else its own record takes
    the place.
    """
    earlier = folder.record()
    damage = folder.damage(earlier) if earlier is not None else []
    if earlier is None or damage:
        record = _record_of(run, folder, context)
        if damage:
            record["notes"]["repeated"] = damage
        if earlier is not None and folder.damage(earlier):
            folder.withdraw()
        folder.publish(record, run.outcome.history, run.spec)
        if context.tensorboard:
            write_scalars(folder, run.outcome.history)
        folder.sweep()
    for path in (folder.checkpoint_path, folder.refit_checkpoint_path):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    published = folder.record()
    assert published is not None
    return str(published["row"]["status"])


def _record_of(run: Finished, folder: RunFolder, context: Context) -> dict[str, Any]:
    """The record, whose files are written."""
    row, device = row_of(run, context), context.torch_device()
    files = write_files(run, folder, device, row)
    notes: dict[str, Any] = {
        "data": dict(run.data.loaded.notes),
        "training": list(run.outcome.notes),
        "method": dict(run.notes),
    }
    if run.outcome.refit:
        notes["refit"] = dict(run.outcome.refit)
    if run.outcome.status == "done":
        notes |= verify_run(run.model, run.data, device, row)
    if run.sharing:
        notes["sharing"] = dict(run.sharing)
    if context.workers_on_gpu > 1:
        notes["workers_on_gpu"] = context.workers_on_gpu
    if run.earlier is not None:
        bits, resolved = run.earlier["notes"].get("arithmetic"), run.earlier.get("resolved")
    else:
        bits, resolved = arithmetic(device), resolved_settings(run.spec, context)
    if bits is not None:
        notes["arithmetic"] = bits
    return {
        "run_id": folder.run_id,
        "row": row,
        **({"resolved": resolved} if resolved else {}),
        **files,
        "classes": list(run.data.loaded.classes),
        "images": run.data.resolved.fingerprint,
        "notes": notes,
        **borrowed_record(run.data),
    }


def row_of(run: Finished, context: Context) -> dict[str, Any]:
    """The leaderboard columns that the run itself knows, without the test metrics."""
    spec, outcome, loaded = run.spec, run.outcome, run.data.loaded
    history = outcome.history
    trainable = run.trainable
    if trainable is None:
        trainable = layers.trainable_parameters(run.scorer or run.model)
    best = None if outcome.best_epoch is None else history[outcome.best_epoch]
    row: dict[str, Any] = (
        describe_run(spec)
        | {
            "status": outcome.status,
            "target_classes": len(loaded.classes),
            "val_top1_accuracy": best["val_top1_accuracy"] if best else None,
            "train_loss": history[-1]["train_loss"] if history else None,
            "best_epoch": None if outcome.best_epoch is None else outcome.best_epoch + 1,
            "epochs_run": len(history),
            "epochs_to_threshold": evaluate.epochs_to_threshold(history, spec.train.threshold),
            "epochs_to_converge": evaluate.epochs_to_converge(history),
            "steps": outcome.steps,
            "train_images": len(loaded.train),
            "val_images": len(loaded.val),
            "test_images": len(loaded.test) if spec.data.tested else 0,
            "trainable_parameters": trainable,
            "borrowed_classes": sum(i.classes_used for _, i in run.data.borrowed) or None,
            "borrowed_images": sum(len(i.rows) for _, i in run.data.borrowed) or None,
            "source_test_overlap": overlap_with_tests(spec, run.data, context),
            "seconds": outcome.seconds,
            "images_per_s": outcome.images_seen / max(outcome.seconds, 1e-9),
            "peak_memory_mib": outcome.peak_memory_bytes / 2**20,
        }
        | machine_of(context)
    )
    if run.earlier is not None:
        row |= {name: run.earlier["row"][name] for name in COST_COLUMNS}
    if outcome.status == "done" and METHODS[spec.method.name].kind == "steps":
        losses = [epoch["train_loss"] for epoch in history]
        labels = loaded.labels[loaded.train]
        alike = "balanced" in (spec.train.sampling, spec.train.class_weights)
        stuck = evaluate.stayed_at_chance(losses, labels, alike=alike)
        row["not_converged"] = "run" if stuck else None
    if outcome.status == "diverged":
        row["reason"] = f"loss not finite or exploded in epoch {(outcome.diverged_epoch or 0) + 1}"
        row["reason"] += " of the second training (train.refit)" if outcome.refit else ""
    if best is not None and METHODS[spec.method.name].kind != "steps":
        # Its history has a row per C, or one of an average; not one per epoch.
        row |= {"train_loss": best["train_loss"], "best_epoch": None, "epochs_run": None}
        row |= {"epochs_to_threshold": None, "epochs_to_converge": None}
    return {key: None if _not_finite(value) else value for key, value in row.items()}


def machine_of(context: Context) -> dict[str, Any]:
    """The columns of what computes here."""
    return {
        "device": device_name(context.torch_device(), context.gpus),
        "threads": torch.get_num_threads(),
        "versions": f"torch {torch.__version__}, timm {timm.__version__}",
    }


def write_files(
    run: Finished, folder: RunFolder, device: torch.device, row: dict[str, Any]
) -> dict[str, Any]:
    """Keeps weights, predictions and the method's own files; adds the test metrics to `row`.

    Returns:
        `files` (name to SHA-256) and `sizes` (name to bytes) of the record, both empty for a run
        that diverged; and `average_precision` (by class) of a run that classifies.
    """
    folder.path.mkdir(parents=True, exist_ok=True)
    if run.outcome.status != "done":
        return {"files": {}, "sizes": {}}
    if METHODS[run.spec.method.name].kind == "extraction":  # its files are all of its result
        return _named([folder.keep(name, run.files[name]) for name in sorted(run.files)])
    kept = [_keep_weights(run, folder)]
    precisions: dict[str, float] = {}
    if run.spec.data.tested:
        predictions, precisions = _tested(run, device, row)
        kept.append(folder.keep("predictions.npz", predictions))
    elif (validation := _validation(run, device)) is not None:
        kept.append(folder.keep("validation.npz", validation))
    kept += [folder.keep(name, run.files[name]) for name in sorted(run.files)]
    return _named(kept) | {"average_precision": precisions}


def _tested(
    run: Finished, device: torch.device, row: dict[str, Any]
) -> tuple[bytes, dict[str, float]]:
    """Adds the test metrics to `row`; gives `predictions.npz` and average precisions by class."""
    test = run.data.domain("test", run.model)
    scores = _scores(run, device, test)
    row["top1_accuracy"] = evaluate.top1_accuracy(scores, test.labels)
    row["mean_class_accuracy"] = evaluate.mean_class_accuracy(scores, test.labels)
    shares = evaluate.softmax(scores) if run.logits else scores
    precisions = evaluate.average_precisions(shares, test.labels)
    row["mean_average_precision"] = float(np.mean(list(precisions.values())))
    row["test_loss"] = evaluate.cross_entropy(scores, test.labels)
    classes = run.data.loaded.classes
    named = {classes[label]: precision for label, precision in precisions.items()}
    return _answers(scores, test, run.data.resolved.test), named


def _validation(run: Finished, device: torch.device) -> bytes | None:
    """`validation.npz` of a run that is judged before any test; None where it has none to show.

    Runs that are compared on the same images are compared image by image (`bench.race.paired`).
    """
    scores, data = run.outcome.held_scores, run.data
    if not len(data.loaded.val) or (scores is None and run.spec.train.refit):
        return None
    held = data.domain("val", run.model)
    if scores is None:
        scores = _scores(run, device, held)
    return _answers(scores, held, data.resolved.val)


def _answers(scores: evaluate.Logits, domain: Domain, images: Sequence[Image]) -> bytes:
    """Scores before the softmax, labels and the images' keys, as `.npz`."""
    content = io.BytesIO()
    names = np.array([image.key.encode() for image in images])
    np.savez(content, logits=scores, labels=domain.labels, images=names)
    return content.getvalue()


def _named(kept: Sequence[Kept]) -> dict[str, Any]:
    return {
        "files": {file.name: file.sha256 for file in kept},
        "sizes": {file.name: file.size_bytes for file in kept},
    }


def _keep_weights(run: Finished, folder: RunFolder) -> Any:
    """Written under a name of this execution's own first: the hash is known afterwards."""
    path = temporary_beside(folder.path / "model")
    try:
        weights.save_state(run.outcome.state if run.scorer else run.model, path)
        return folder.keep("model.safetensors", path)
    finally:
        path.unlink(missing_ok=True)


def _scores(run: Finished, device: torch.device, of: Domain) -> evaluate.Logits:
    """Scores of images; log of the mean softmax where rounds are fused (GE-7)."""
    recipe = run.spec.train
    scorer = run.scorer or viewing(run.model, run.data.views)

    def scores() -> evaluate.Logits:
        scorer.eval()
        return evaluate.predict(
            scorer,
            of,
            device=device,
            precision="float32" if run.scorer else recipe.precision,
            channels_last=recipe.channels_last,
        )

    if run.past_prefix is not None:
        return run.past_prefix(of)
    if not run.outcome.kept or run.trained is None:
        return scores()
    shares = []
    for state in (*run.outcome.kept, run.outcome.state):  # the selected weights last: they stay
        run.trained.load_state_dict(state)
        shares.append(evaluate.softmax(scores()))
    fused: evaluate.Logits = np.log(np.mean(shares, axis=0).clip(1e-38))
    return fused


def _not_finite(value: Any) -> bool:
    return isinstance(value, float) and not np.isfinite(value)
