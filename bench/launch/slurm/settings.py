"""The `slurm:` section of a grid: what to ask the cluster for, and how to go about it.

    slurm:
      partition: gpu
      account: my-project
      gpus_per_node: 1
      cpus_per_task: 4
      memory_gib: 16
      timeout_min: 120                  # minutes, or sbatch's 2:00:00
      source: {timeout_min: 600, gpus: 4}  # pre-training takes longer; a run on four GPUs
      leaderboard: {partition: cpu}
      decode: {partition: cpu, cpus_per_task: 32}  # before the jobs that train; without a GPU
      additional: {reservation: course} # any other sbatch option

Everything a site asks for goes through submitit unchanged; what is left out, the site decides.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    ValidationError,
    field_validator,
)

from bench.core.errors import GridError, nearest
from bench.core.text import TIMES, whole_minutes

Kind = Literal["source", "finetune", "leaderboard", "decode"]

_LINE = re.compile(r"[^\x00-\x1f\x7f]{1,200}\Z")
_OWN_OPTIONS = frozenset(
    [
        "job-name",
        "output",
        "error",
        "array",
        "dependency",
        "signal",
        "open-mode",
        "wrap",
        "wait",
        "parsable",
        "input",
        "requeue",
        "no-requeue",
        "kill-on-invalid-dep",
        "ntasks",
        "ntasks-per-node",
        "time",
        "mem",
        "cpus-per-task",
        "chdir",
        "test-only",
        "hold",
        "begin",
        "kill-on-bad-exit",
    ]
)


def _one_line(text: str) -> str:
    """A newline or another control character would end the line of the batch script."""
    if not _LINE.match(text):
        raise ValueError("must be one line of at most 200 printable characters")
    return text


def _minutes(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    found = whole_minutes(value)
    if found is None:
        raise ValueError(f"no time; write {TIMES}")
    return found


Line = Annotated[str, Field(min_length=1)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*", mode="after")
    @classmethod
    def _lines(cls, value: Any) -> Any:
        return _one_line(value) if isinstance(value, str) else value


class Resources(_Section):
    """What one job asks for. None is the site's own default, or that of `SlurmSettings`.

    `gpus` is the number of GPUs on which each run is trained (`bench.runs.distributed`); the job
    asks for as many, and for the processors and the memory of so many processes, where nothing else
    is said. `memory_gib: null`, written out, sends no `--mem` at all and is kept as 0; so it is
    where `mem-per-cpu` or `mem-per-gpu` stands under `additional`.

    Attributes:
        partition: of the cluster.
        account: that pays.
        qos: quality of service.
        constraint: features that a node must have.
        gres: generic resources, as sbatch takes them.
        nodelist: nodes to use.
        exclude: nodes to leave out.
        gpus: number of GPUs on which each run is trained.
        gpus_per_node: GPUs of a job; default is the site's, or `gpus`.
        cpus_per_task: processors of a job.
        memory_gib: of a job; `null`, written out, asks for none.
        timeout_min: longest time of a job, a number or sbatch's 2:00:00.
        additional: any other sbatch option by its long name.
    """

    partition: Line | None = None
    account: Line | None = None
    qos: Line | None = None
    constraint: Line | None = None
    gres: Line | None = None
    nodelist: Line | None = None
    exclude: Line | None = None
    gpus: Annotated[int, Strict(), Field(ge=1)] | None = None
    gpus_per_node: Annotated[int, Strict(), Field(ge=0)] | None = None
    cpus_per_task: Annotated[int, Strict(), Field(ge=1)] | None = None
    memory_gib: Annotated[float, Field(ge=0, le=65536)] | None = None
    timeout_min: Annotated[int, BeforeValidator(_minutes), Strict(), Field(ge=1)] | None = None
    additional: Mapping[str, str | bool | int | float] = {}

    @field_validator("additional")
    @classmethod
    def _not_ours(cls, options: Mapping[str, Any]) -> Mapping[str, Any]:
        for name, value in options.items():
            if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
                raise ValueError(f"{name!r} is not the long name of an sbatch option")
            if name in _OWN_OPTIONS:
                raise ValueError(f"--{name} is set by bench itself")
            _one_line(str(value))
        return options

    def over(self, base: Resources) -> Resources:
        """These resources, with what they leave open taken from `base`."""
        given = {k: v for k, v in self.model_dump().items() if v is not None and k != "additional"}
        merged = base.given() | given
        return Resources(**merged | {"additional": {**base.additional, **self.additional}})

    def given(self) -> dict[str, Any]:
        """What is said, by name."""
        values = {name: getattr(self, name) for name in Resources.model_fields}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def gpus_asked(self) -> int | None:
        """GPUs of a node that the job asks for in whatever way; None where none is named.

        >>> Resources(gres="gpu:h100:2,license:1").gpus_asked, Resources().gpus_asked
        (2, None)
        """
        if self.gpus_per_node is not None:
            return self.gpus_per_node
        options = {**self.additional, "gres": self.gres or self.additional.get("gres", "")}
        numbers = [_number(options[name]) for name in _GPU_OPTIONS if name in options]
        for name in ("gres", "tres-per-task"):
            parts = _gpus_of(str(options.get(name, "")))
            numbers += [sum(parts)] if parts else []
        return max(numbers, default=None)

    def scaled(self, memory: float, time: float) -> Resources:
        """More of the two, for a retry of what ran out of them."""
        return self.model_copy(
            update={
                "memory_gib": self.memory_gib * memory if self.memory_gib else None,
                "timeout_min": int(self.timeout_min * time) if self.timeout_min else None,
            }
        )


_GPU_OPTIONS = ("gpus", "gpus-per-node", "gpus-per-socket", "gpus-per-task")
_MEMORY_OPTIONS = ("mem-per-cpu", "mem-per-gpu")


def _number(text: Any) -> int:
    """GPUs of one part of `--gres` or of `--gpus`: the last number, 1 where there is none."""
    last = str(text).split("(")[0].rpartition(":")[2]
    return int(last) if last.isdigit() else 1


def _gpus_of(resources: str) -> list[int]:
    """GPUs of each part of `--gres` or `--tres-per-task` that is of GPUs.

    Shards (`shard`) and percent of the Multi-Process Service (`mps`) are of one GPU, however many.

    >>> _gpus_of("gpu:h100:2,license:1"), _gpus_of("cpu=4,gres/gpu=2"), _gpus_of("mps:50")
    ([2], [2], [1])
    """
    named = [re.sub(r"^gres[/:]", "", part).replace("=", ":") for part in resources.split(",")]
    found = [(part.split(":")[0], _number(part)) for part in named]
    gpus = [number for name, number in found if name == "gpu"]
    return gpus + [min(1, number) for name, number in found if name in ("shard", "mps")]


_DEFAULTS: Mapping[str, Resources] = {
    "source": Resources(cpus_per_task=1, memory_gib=4.0, timeout_min=240),
    "finetune": Resources(cpus_per_task=1, memory_gib=4.0, timeout_min=60),
    "leaderboard": Resources(cpus_per_task=1, memory_gib=2.0, timeout_min=30, gpus_per_node=0),
    "decode": Resources(cpus_per_task=8, memory_gib=8.0, timeout_min=240, gpus_per_node=0),
}


_OF_RUNS = ("gpus", "gpus_per_node", "gres", "cpus_per_task", "timeout_min", "memory_gib")


class SlurmSettings(Resources):
    """Resources of all jobs, what differs by kind of job, and the policy.

    Attributes:
        source: laid over the resources above for pre-training.
        finetune: laid over the resources above for fine-tuning.
        leaderboard: laid over the resources above for the last job, which writes the leaderboards
            and submits again what failed.
        decode: laid over the resources above for a job that decodes images and has no GPU.
        decode_from: selections of so many images are decoded by such a job.
        runs_per_job: runs in one job; default is as many as make `job_min` of work.
        job_min: minutes of work in a job, by the forecast.
        max_jobs: jobs in the queue at once, the last job not counted; default is what is allowed.
        max_attempts: how often a run that fails is tried.
        max_requeues: how often a job puts itself back into the queue at its time limit.
        signal_delay_s: how long before its end a job is asked to write a checkpoint.
        checkpoint_s: seconds between checkpoints; a killed run loses at most so much.
        grace_s: how long a job that the cluster does not list is waited for.
        lag_s: how long a result may take to be seen through the shared file system.
        threads: CPU threads of a run; results are bit-identical for equal numbers only.
        device: on which runs are trained.
        last_job: whether a last job writes the leaderboards and submits what is to be tried again.
        tensorboard: whether runs write event files, as with `bench grid --tensorboard`.
    """

    source: Resources = Resources()
    finetune: Resources = Resources()
    leaderboard: Resources = Resources()
    decode: Resources = Resources()
    decode_from: Annotated[int, Strict(), Field(ge=1)] = 5000
    runs_per_job: Annotated[int, Strict(), Field(ge=1)] | None = None
    job_min: Annotated[float, Field(gt=0)] = 10.0
    max_jobs: Annotated[int, Strict(), Field(ge=1)] | None = None
    max_attempts: Annotated[int, Strict(), Field(ge=1)] = 3
    max_requeues: Annotated[int, Strict(), Field(ge=0)] = 100
    signal_delay_s: Annotated[int, Strict(), Field(ge=1)] = 120
    checkpoint_s: Annotated[float, Field(gt=0)] = 60.0
    grace_s: Annotated[float, Field(ge=0)] = 90.0
    lag_s: Annotated[float, Field(ge=0)] = 60.0
    threads: Annotated[int, Strict(), Field(ge=1)] = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    last_job: Annotated[bool, Strict()] = True
    tensorboard: Annotated[bool, Strict()] = False

    def resources(self, kind: Kind) -> Resources:
        """Everything decided: the kind's own, over the common ones, over the defaults."""
        common = Resources(**self.given())
        trains = kind in ("source", "finetune")
        if not trains:
            # What is asked for runs is not needed for writing a table, or for decoding.
            of_gpus = {"gres", "tres-per-task"}
            others = {
                name: value
                for name, value in common.additional.items()
                if name not in of_gpus and "gpu" not in name
            }
            nothing = dict.fromkeys(_OF_RUNS)
            common = common.model_copy(update={**nothing, "additional": others})
        own: Resources = getattr(self, kind)
        asked = own.over(common)
        if kind == "finetune" and self._follows_its_source(asked, self.source.over(common)):
            asked = asked.model_copy(update={"gpus": 1})
        found = self._memory(asked, asked.over(_DEFAULTS[kind]))
        if not trains:
            return found
        gpus = found.gpus or 1
        if found.gpus is not None:
            found = found.model_copy(update=self._of_processes(gpus, asked, found))
        if (found.cpus_per_task or 1) < gpus * self.threads:
            found = found.model_copy(update={"cpus_per_task": gpus * self.threads})
        return found

    def _follows_its_source(self, asked: Resources, source: Resources) -> bool:
        """Whether fine-tunings, of which nothing is said, need a GPU since their sources have some.

        Where they go elsewhere (a partition without GPUs) they are left alone.
        """
        silent = asked.gpus is None and asked.gpus_asked is None
        there = asked.partition == source.partition and self.device != "cpu"
        return silent and there and bool(source.gpus or source.gpus_asked)

    @staticmethod
    def _memory(asked: Resources, found: Resources) -> Resources:
        """Without `--mem` where the memory is asked for in another way: sbatch takes one alone."""
        other = [name for name in _MEMORY_OPTIONS if name in found.additional]
        if not other:
            return found
        if asked.memory_gib or len(other) > 1:
            first = "memory_gib" if asked.memory_gib else f"additional {other[1]}"
            raise GridError(
                f"slurm: {first} and additional {other[0]} exclude each other",
                hint="keep one; memory_gib: null sends no --mem",
            )
        return found.model_copy(update={"memory_gib": 0.0})

    def _of_processes(self, gpus: int, asked: Resources, found: Resources) -> dict[str, Any]:
        """What a job needs to train each run by several processes."""
        more: dict[str, Any] = {}
        if asked.memory_gib is None and found.memory_gib:
            more["memory_gib"] = gpus * found.memory_gib
        if self.device == "cpu":
            return more
        stated = asked.gpus_asked
        if stated is not None and stated < gpus:
            raise GridError(
                f"slurm: a run is trained on gpus: {gpus}, but the job asks for {stated} a node",
                hint="leave gpus_per_node and gres out, and the job asks for as many as gpus says",
            )
        if stated is None:
            more["gpus_per_node"] = gpus
        return more

    def remarks(self, kinds: Iterable[Kind], gpus_of_partition: int) -> list[str]:
        """What may not be meant: nothing is wrong with it, and it may cost days.

        Args:
            kinds: of the runs that are submitted.
            gpus_of_partition: GPUs of a node of the partition, as sinfo shows them; 0 for none.
        """
        found = []
        for kind in kinds:
            resources = self.resources(kind)
            asked, used = resources.gpus_asked or 0, resources.gpus or 1
            jobs = "source" if kind == "source" else "fine-tuning"
            if not asked and gpus_of_partition and self.device != "cpu":
                found.append(
                    f"{jobs} jobs ask for no GPU and will train on CPUs, though nodes of this "
                    f"partition have {gpus_of_partition}: --slurm-set gpus=1 asks for one, "
                    "--slurm-set device=cpu says that it is meant"
                )
            elif asked > used and self.device != "cpu":
                found.append(
                    f"{jobs} jobs ask for {asked} GPUs, and each run trains on {used}: "
                    f"--slurm-set {kind}.gpus={asked} uses them all"
                )
        return found


def read_settings(
    section: Mapping[str, Any], overrides: Iterable[tuple[str, Any]] = (), place: str = "slurm"
) -> SlurmSettings:
    """The section, with `(dotted key, value)` overrides of the command line laid over it.

    >>> read_settings({"partition": "gpu"}, [("source.timeout_min", 300)]).resources("source")
    ... # doctest: +ELLIPSIS
    Resources(partition='gpu', account=None, ... timeout_min=300, additional={})

    Raises:
        GridError: naming the key, the value and the nearest known keys.
    """
    values: dict[str, Any] = {
        k: dict(v) if isinstance(v, Mapping) else v for k, v in section.items()
    }
    for key, value in overrides:
        head, _, rest = key.partition(".")
        if rest:
            inner = values.setdefault(head, {})
            if not isinstance(inner, dict):
                raise GridError(f"{head} is {inner!r}, so {key} cannot be set", place=place)
            inner[rest] = value
        else:
            values[head] = value
    for part in (values, *(part for part in values.values() if isinstance(part, dict))):
        if "memory_gib" in part and part["memory_gib"] is None:
            part["memory_gib"] = 0.0  # written out: nothing is sent
    try:
        return SlurmSettings.model_validate(values)
    except ValidationError as error:
        raise _readable(error, place) from None


def _readable(error: ValidationError, place: str) -> GridError:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "slurm"
    if first["type"] == "extra_forbidden":
        known = Resources if len(first["loc"]) > 1 else SlurmSettings
        hint = f"known: {nearest(str(first['loc'][-1]), known.model_fields, 12)}"
        return GridError(f"unknown key {where!r} in slurm", place=place, hint=hint)
    message = first["msg"].removeprefix("Value error, ")
    return GridError(
        f"slurm.{where}: {first['input']!r}: {message}", place=place, hint="see docs/slurm.md"
    )
