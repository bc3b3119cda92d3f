"""The one training loop, for all methods: a method is an object that names each step's images.

Loss of a step = sum over its parts d of weight_d x mean cross-entropy of part d; each image counts
for its own domain only (SFT Eqs. 1 and 3, GE §3.1). Plain training is the case of one
domain. Model selection reads the validation images alone; a test set is nowhere in reach.

A run is a function of the job: order, augmentation and dropout are seeded from (order seed, epoch).
On the CPU, with the same number of threads, a run that was interrupted anywhere and resumed gives
the same bits as one that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import torch
from timm.utils import ModelEmaV3
from torch import Tensor

from bench.core.errors import BenchError
from bench.core.seeding import seed_from
from bench.data.transforms.mixing import Mix, draw_mix
from bench.training import checkpoints as checkpoint
from bench.training import evaluation as evaluate
from bench.training import optimizers as optim
from bench.training.data_parallel import whole_batch_norm
from bench.training.domain import images_in, mean_weight
from bench.training.domain_batches import Feed, FeedOptions, further_noise
from bench.training.job import EpochReport, Interrupted, Outcome, Row, TrainingJob
from bench.training.process import peak_memory_bytes
from bench.training.steps import Forward, Stepper, Sums, shown_in

_CHECK_EVERY = 25
"""Steps between looks at the loss; each look makes a GPU wait."""

_SECONDS_PER_WRITTEN = 20.0
"""Seconds of training for each second that the last checkpoint took, and at most so many times the
interval between checkpoints: steps wait while one is written."""


def train(job: TrainingJob) -> Outcome:
    """Trains `job.model`; the outcome.

    The caller's random state is left as it was. With `job.checkpoint` an interrupted training is
    continued; the file stays until the caller removes it.

    Raises:
        BenchError: the job contradicts itself.
        Interrupted: `job.should_stop` became true; the state has been written.
    """
    _check(job)
    cuda = [job.device] if job.device.type == "cuda" else []
    parts, views = job.train.batch_norm_parts, job.method.domains[job.method.target].views
    whole = whole_batch_norm(job.team, job.model, parts, views)
    with torch.random.fork_rng(devices=cuda), whole:
        return _Training(job).run()


def _check(job: TrainingJob) -> None:
    domains = job.method.domains
    if job.train.select == "best_val" and (job.validation is None or job.validation.size == 0):
        raise BenchError(
            "select: best_val needs validation images, and there are none",
            hint="set val_per_class to 1 or more, or select: last",
        )
    if job.train.warmup_epochs > job.train.epochs:
        raise BenchError(
            f"warmup_epochs is {job.train.warmup_epochs}, but there are {job.train.epochs} epochs",
            hint="the learning rate would never be reached; shorten the warm-up",
        )
    if job.forward is None and len(domains) != 1:
        raise BenchError(
            f"{len(domains)} domains, but no forward that uses their heads",
            hint="use bench.models.heads.MultiHead",
        )
    job.team.check_domains(len(domains))


class _Training:
    """The state of one training; `run` moves it from wherever it is to its end."""

    def __init__(self, job: TrainingJob) -> None:
        self.job = job
        if job.train.channels_last:
            job.model.to(memory_format=torch.channels_last)
        self.model = job.model.to(job.device)
        self.optimizer = optim.build(job.groups, job.train)
        self.average = (
            None
            if job.train.ema is None
            else ModelEmaV3(self.model, decay=job.train.ema, use_warmup=True)
        )
        self.epochs = job.train.epochs if job.stop_after is None else job.stop_after
        self.epoch, self.step, self.steps_in_epoch = 0, 0, 1
        self.weights: dict[int, float] = {}
        self.history: list[Row] = []
        self.best: dict[str, Tensor] = {}
        self.kept: dict[int, dict[str, Tensor]] = {}
        self.best_score: tuple[float, float, int] | None = None
        self.sums = self._no_sums()
        self.first_loss: Tensor | None = None
        self.rng: dict[str, Tensor] = {}
        self.steps_done, self.images_seen, self.images_per_s = 0, 0, 0.0
        self.seconds_before, self.started, self.first_epoch = 0.0, time.monotonic(), 0
        self.written, self.epochs_since_written, self.write_s = self.started, 0, 0.0
        self.notes: list[str] = []
        self._prepare_feeds()

    def _prepare_feeds(self) -> None:
        job, recipe = self.job, self.job.train
        plain = FeedOptions(
            job.device, recipe.channels_last, recipe.precision, resident=job.resident
        )
        target, seed = job.method.target, job.order_seed
        self.feeds = [
            Feed(d, plain.augmented(recipe, mixes=number == target, seed=seed), job.prefix)
            for number, d in enumerate(job.method.domains)
        ]
        self.validation = (
            Feed(job.validation, plain, job.prefix)
            if job.validation is not None and job.validation.size
            else None
        )
        if job.cache_prefix:
            self.model.eval()
            for feed in [*self.feeds, *([self.validation] if self.validation else [])]:
                feed.cache_prefix()
            self.notes.append("activations of frozen layers were computed once, without dropout")
        job.share(self.feeds, self.validation)
        model = self.model  # a function of `self` would keep all of this until a collection
        self.forward: Forward = job.forward or (lambda inputs, parts: [model(inputs)])
        forward = job.team.replica(self.model, self.forward, recipe.batch_norm_parts)
        self.stepper = Stepper(forward, self.optimizer, self.feeds, job.method.target, recipe)

    def _no_sums(self) -> Sums:
        return Sums.zero(self.job.device, len(self.job.method.domains))

    # --- epochs ------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """From the checkpoint, or the beginning, to the outcome."""
        self._resume()
        self.notes += self.job.team.begin(self.epoch, self.step, self.steps_done)
        while self.epoch < self.epochs:
            if self.epoch in self.job.keep_before and self.epoch not in self.kept:
                self.kept[self.epoch] = _copy(self._judged())
            diverged = self._train_epoch()
            if self._finish_epoch(diverged):
                return self._outcome(self.epoch)
            self.epoch, self.step, self.sums = self.epoch + 1, 0, self._no_sums()
            self.epochs_since_written += 1
            if self.epoch < self.epochs:
                self._checkpoint_if_due()
            elif self.job.keep_end:
                self._write_checkpoint()
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        finite = all(bool(p.isfinite().all()) for p in parameters)
        return self._outcome(None if finite else self.epochs - 1)

    def _train_epoch(self) -> bool:
        """From `self.step` to the end of the epoch; true when the loss has left the rails."""
        job = self.job
        steps = job.method.steps(self.epoch, self._predict)
        if not steps:
            raise BenchError(f"the method gives no step in epoch {self.epoch}")
        job.team.check(steps, job.train.accumulate, job.train.batch_norm_parts)
        self.steps_in_epoch = len(steps)
        borrowed = [d for d in range(len(job.method.domains)) if d != job.method.target]
        self.weights = {domain: mean_weight(steps, domain) for domain in borrowed}
        extra = further_noise(job.train)
        images = shown_in(steps, job.order_seed, self.epoch, job.device, extra, self.feeds)
        self.model.train()
        job.set_modes()
        job.stage(self.epoch)
        self._seed_dropout()
        begun, shown = time.monotonic(), 0
        for number in range(self.step, len(steps)):
            count = images_in(steps[number : number + 1])
            factor = self._lr_factor(number)
            optim.set_lr_factor(self.optimizer, factor)
            loss = self.stepper.take(steps[number], images[number], self.sums, self._mix(number))
            if self.average is not None:
                self.average.update(self.model, step=self.steps_done + 1)
            self.first_loss = loss if self.first_loss is None else self.first_loss
            shown, self.step = shown + count, number + 1
            self.steps_done, self.images_seen = self.steps_done + 1, self.images_seen + count
            if self.step % _CHECK_EVERY == 0 and self._diverged():
                return True
            self._stop_if_asked()
            self._checkpoint_if_due(epochs=False)
        diverged = self._diverged()  # waits for the GPU, so it stands before the clock
        self.images_per_s = shown / max(time.monotonic() - begun, 1e-9)
        return diverged

    def _mix(self, step: int) -> Mix | None:
        target = self.job.method.domains[self.job.method.target]
        side = target.crop or target.images.shape[2]
        return draw_mix(self.job.train, side, self.job.order_seed, self.epoch, step)

    def _lr_factor(self, step: int) -> float:
        return optim.lr_factor(self.job.train, self.epoch, step, self.steps_in_epoch)

    def _seed_dropout(self) -> None:
        """Sets the global generators, which only dropout and the like use here."""
        stream = f"dropout|{self.job.order_seed}|{self.epoch}"
        torch.manual_seed(seed_from(self.job.team.stream(stream)))
        if "cpu" in self.rng:
            torch.set_rng_state(self.rng["cpu"])
        if "cuda" in self.rng and self.job.device.type == "cuda":
            torch.cuda.set_rng_state(self.rng["cuda"], self.job.device)
        self.rng = {}

    def _diverged(self) -> bool:
        """Whether a step's loss was not finite, or exceeded explode_factor x the first step's.

        A first loss below chance (ln C) counts as chance: a run that starts nearly perfect would
        else be ended by one ordinary batch.
        """
        classes = self.job.method.domains[self.job.method.target].num_classes
        first = 0.0 if self.first_loss is None else float(self.first_loss)
        limit = self.job.train.explode_factor * max(first, math.log(max(classes, 2)))
        worst = float(self.sums.worst)
        return not (math.isfinite(worst) and worst <= limit)

    def _finish_epoch(self, diverged: bool) -> bool:
        """Evaluates, selects, reports; true when the run has diverged."""
        recipe = self.job.train
        due = self.epoch + 1 == self.epochs or (self.epoch + 1) % recipe.evaluate_every == 0
        val_loss = val_top1 = None
        if self.validation is not None and due and not diverged:
            val_loss, val_top1 = self._validate(self.validation)
            diverged = not math.isfinite(val_loss)
        target = self.job.method.target
        train_loss, train_top1 = self.sums.mean_loss(target), self.sums.accuracy(target)
        row: Row = {
            "epoch": self.epoch,
            "lr": recipe.lr * self._lr_factor(0),
            "train_loss": train_loss,
            "train_top1_accuracy": train_top1,
            "val_loss": val_loss,
            "val_top1_accuracy": val_top1,
        }
        for domain, weight in self.weights.items():
            row[f"borrowed_{domain}_weight"] = weight
            row[f"borrowed_{domain}_loss"] = self.sums.mean_loss(domain)
        self.history.append(row)
        if diverged:
            return True
        if val_loss is not None and val_top1 is not None and recipe.select == "best_val":
            score = (val_top1, -val_loss, -self.epoch)
            if self.best_score is None or score > self.best_score:
                self.best_score, self.best = score, _copy(self._judged())
        shown = math.nan if train_loss is None else train_loss
        self.job.on_epoch(
            EpochReport(
                self.epoch,
                self.epochs,
                shown,
                val_top1,
                self.images_per_s,
                self.history,
                self._left_s(),
            )
        )
        return False

    def _left_s(self) -> float:
        """Seconds to the end of the training, by the epochs that this process has trained."""
        trained = self.epoch + 1 - self.first_epoch
        spent = time.monotonic() - self.started
        return spent / max(trained, 1) * (self.epochs - self.epoch - 1)

    def _logits(self, feed: Feed, domain: int) -> evaluate.Logits:
        self.model.eval()
        views = feed.domain.views

        def scores(inputs: Tensor) -> Tensor:
            return self.forward(inputs, ((domain, len(inputs) // views),))[0]

        return evaluate.predict_feed(scores, feed, team=self.job.team)

    def _predict(self, domain: int) -> evaluate.Logits:
        return self._logits(self.feeds[domain], domain)

    def _judged(self) -> dict[str, Tensor]:
        """The weights that are validated and kept."""
        return (self.model if self.average is None else self.average.module).state_dict()

    def _validate(self, feed: Feed) -> tuple[float, float]:
        own = None if self.average is None else _copy(self.model.state_dict())
        if own is not None:
            self.model.load_state_dict(self._judged())
        logits, labels = self._logits(feed, self.job.method.target), feed.domain.labels
        if own is not None:
            self.model.load_state_dict(own)
        return evaluate.cross_entropy(logits, labels), evaluate.top1_accuracy(logits, labels)

    # --- stopping and resuming ---------------------------------------------------------------

    def _stop_if_asked(self) -> None:
        if self.job.team.any(self.job.should_stop()):
            self._write_checkpoint()
            raise Interrupted(
                f"stopped in epoch {self.epoch + 1} of {self.epochs}, "
                f"after step {self.step} of {self.steps_in_epoch}"
            )

    def _checkpoint_if_due(self, *, epochs: bool = True) -> None:
        every, seconds = self.job.checkpoint_every_epochs, self.job.checkpoint_every_s
        pause = max(seconds, _SECONDS_PER_WRITTEN * min(self.write_s, seconds))
        due = self.job.team.leads and time.monotonic() - self.written >= pause
        due = due or (epochs and every is not None and self.epochs_since_written >= every)
        if self.job.team.any(due):
            self._write_checkpoint()

    def _write_checkpoint(self) -> None:
        begun, self.epochs_since_written = time.monotonic(), 0
        self.written = begun
        if self.job.checkpoint is None:
            return
        rng = self._rng_state() if self.step else {}
        if not self.job.team.leads:
            return
        groups = {
            "model": self.model.state_dict(),
            "optimizer": optim.state(self.optimizer),
            "best": self.best,
            "average": {} if self.average is None else self.average.module.state_dict(),
            "method": self.job.method.state(),
            "sums": self.sums.tensors(),
            "first": {} if self.first_loss is None else {"loss": self.first_loss},
            "rng": rng,
            **{f"kept{epoch}": state for epoch, state in self.kept.items()},
        }
        tensors = {f"{group}/{k}": v for group, part in groups.items() for k, v in part.items()}
        meta = {
            "epoch": self.epoch,
            "step": self.step,
            "history": self.history,
            "best_score": self.best_score,
            "kept": sorted(self.kept),
            "steps_done": self.steps_done,
            "images_seen": self.images_seen,
            "seconds": self._seconds(),
        }
        checkpoint.write(self.job.checkpoint, self.job.identity, tensors, meta)
        self.written = time.monotonic()
        self.write_s = self.written - begun

    def _rng_state(self) -> dict[str, Tensor]:
        state = {"cpu": torch.get_rng_state()}
        if self.job.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self.job.device)
        return self.job.team.gather_states(state)

    def _resume(self) -> None:
        """Continues from the checkpoint if there is a usable one; notes what it did."""
        if self.job.checkpoint is None:
            return
        found = checkpoint.read(self.job.checkpoint, self.job.identity)
        if isinstance(found, checkpoint.Checkpoint):
            ours = (self.sums.tensors(), self.job.method.state())
            theirs = (found.part("sums"), found.part("method"))
            if [set(part) for part in theirs] != [set(part) for part in ours]:
                place = self.job.checkpoint
                self.notes.append(
                    f"checkpoint not used, started anew: {place} is of an old version"
                )
                return
            mine, its = self.model.state_dict(), found.part("model")
            if {k: v.shape for k, v in mine.items()} == {k: v.shape for k, v in its.items()}:
                self._take_over(found)
                return
            found = f"{self.job.checkpoint} holds another network"
        if isinstance(found, str):
            self.notes.append(f"checkpoint not used, started anew: {found}")

    def _take_over(self, found: checkpoint.Checkpoint) -> None:
        meta = found.meta
        self.model.load_state_dict(found.part("model"))
        optim.load_state(self.optimizer, found.part("optimizer"))
        if self.average is not None:
            self.average.module.load_state_dict(found.part("average"))
        self.best, self.rng = found.part("best"), self.job.team.own_states(found.part("rng"))
        self.kept = {epoch: found.part(f"kept{epoch}") for epoch in meta["kept"]}
        self.job.method.restore(found.part("method"))
        kept = found.part("sums")
        self.sums = Sums(**{k: v.to(getattr(self.sums, k).device) for k, v in kept.items()})
        self.first_loss = found.part("first").get("loss")
        self.epoch, self.step, self.history = meta["epoch"], meta["step"], meta["history"]
        self.first_epoch = self.epoch
        self.best_score = None if meta["best_score"] is None else tuple(meta["best_score"])
        self.steps_done, self.images_seen = meta["steps_done"], meta["images_seen"]
        self.seconds_before = meta["seconds"]
        place = f"in epoch {self.epoch + 1} after step {self.step}"
        self.notes.append(f"resumed {place if self.epoch < self.epochs else 'after its end'}")

    # --- the end -----------------------------------------------------------------------------

    def _seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.started

    def _outcome(self, diverged_epoch: int | None) -> Outcome:
        best_epoch = None if self.best_score is None else -self.best_score[2]
        if self.job.train.select == "last" and diverged_epoch is None:
            self.best, best_epoch = _copy(self._judged()), self.epoch - 1
        if self.best:
            self.model.load_state_dict(self.best)
        return Outcome(
            status="done" if diverged_epoch is None else "diverged",
            history=self.history,
            best_epoch=best_epoch,
            state=self.best,
            kept=tuple(self.kept[epoch] for epoch in sorted(self.kept)),
            steps=self.steps_done,
            images_seen=self.images_seen,
            seconds=self._seconds(),
            peak_memory_bytes=peak_memory_bytes(self.job.device),
            diverged_epoch=diverged_epoch,
            notes=tuple(self.notes),
        )


def _copy(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.detach().to("cpu", copy=True).contiguous() for k, v in state.items()}
