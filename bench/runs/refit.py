"""The second training of a run with `train.refit`: on training and validation images together.

The first training chooses an epoch on validation images; the second begins with the same weights,
draws its order and noise from the same seeds, follows the schedule that was planned for all epochs
and ends after as many as were chosen. An epoch is a pass over more images, so it may have more
steps. Nothing but the number of epochs goes from the first to the second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bench.results.store import RunFolder
from bench.training.job import Outcome, TrainingJob


def second_job(job: TrainingJob, chosen: Outcome, folder: RunFolder) -> TrainingJob:
    """The job of the second training.

    Its checkpoint is a file of its own that names the number of epochs, so it is never taken for
    the first training's, nor for that of another choice.

    Args:
        job: of the run on all images, as if it were to choose an epoch.
        chosen: of the first training, which ended well.
        folder: of the run.
    """
    assert chosen.best_epoch is not None
    epochs = chosen.best_epoch + 1
    return replace(
        job,
        train=job.train.model_copy(update={"select": "last", "refit": False}),
        validation=None,
        identity=f"{job.identity} refit of {epochs} epochs",
        checkpoint=folder.refit_checkpoint_path,
        stop_after=epochs,
        keep_end=False,
    )


def both_trainings(
    chosen: Outcome, second: Outcome, images: int, notes: Mapping[str, Any]
) -> Outcome:
    """One outcome of the two: the choice and its history of the first, the weights of the second.

    Args:
        chosen: of the first training.
        second: of the second.
        images: own images that the second was trained on.
        notes: of the method, on the second.
    """
    last = second.history[-1]
    about = {
        "images": images,
        "epochs": len(second.history),
        "steps": second.steps,
        "train_loss": last["train_loss"],
        "train_top1_accuracy": last["train_top1_accuracy"],
        **({"method": dict(notes)} if notes else {}),
    }
    return replace(
        chosen,
        status=second.status,
        state=second.state,
        steps=chosen.steps + second.steps,
        images_seen=chosen.images_seen + second.images_seen,
        seconds=chosen.seconds + second.seconds,
        peak_memory_bytes=max(chosen.peak_memory_bytes, second.peak_memory_bytes),
        diverged_epoch=second.diverged_epoch,
        notes=(*chosen.notes, *(f"refit: {note}" for note in second.notes)),
        refit=about,
    )
