"""Write docs/grid-reference.md: every key of a grid file, from the models that read it.

    python scripts/grid_reference.py

Types and defaults are those of the models' fields, sentences those of their docstrings. Units and
examples stand in `EXAMPLES`; a key without one is an error, and a test builds each example.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel

from bench.grid.cell import SECTIONS
from bench.launch.slurm.settings import SlurmSettings
from bench.methods import METHODS
from bench.methods.retrieval.neighbours import SelectionOptions
from bench.specs.data import Borrowed, ClassRecipe, DataSpec
from bench.specs.evaluation import EvaluateSpec, VerificationSpec
from bench.specs.measures import KINDS
from bench.specs.race import RaceSpec
from bench.specs.recipes import RECIPES
from bench.specs.run import ModelSpec, Seeds, TrainSpec

OUT = Path(__file__).parents[1] / "docs" / "grid-reference.md"

Examples = Mapping[str, Any]
"""By key: an example in YAML, which may be a mapping that has further keys; and its unit."""

TOP = {
    "name": ("text", "name of the file", "of tables and reports.", "name: birds"),
    "about": ("text", "", "one line for lists of grids.", "about: which layers to freeze"),
    "root": (
        "text",
        "`--data-root`, `BENCH_DATA`",
        "where data sets lie, relative to the grid file; `--data-root` goes before.",
        "root: ../data",
    ),
    "defaults": ("sections", "", "laid under every experiment.", "defaults: {train: {epochs: 5}}"),
    "sources": (
        "name: keys of `source`",
        "",
        "names for selections that `source` and `borrow` may then give.",
        "sources: {near: {classes: {side: near}}}",
    ),
    "targets": (
        "name: keys of `target`",
        "",
        "names for selections that `target` may then give.",
        "targets: {birds: {dataset: folder, root: birds}}",
    ),
    "experiments": (
        "name: keys below",
        "must be given",
        "named questions, each a product of axes.",
        "experiments: {rates: {axes: {train.lr: [0.1, 0.01]}}}",
    ),
    "presets": (
        "name: parts of a grid",
        "",
        "parts that `--preset NAME` lays over the file; `null` removes an experiment or an axis.",
        "presets: {quick: {defaults: {train: {epochs: 1}}}}",
    ),
    "measure": ("see below", "", "measurements beside accuracy.", "measure: {distances: {}}"),
    "slurm": ("see below", "", "what is asked of a cluster.", "slurm: {partition: gpu}"),
    "race": (
        "see below",
        "all runs",
        "`bench grid` races the recipes within a time.",
        "race: {budget: 30m}",
    ),
}

EXPERIMENT = {
    "about": ("text", "the question in one line.", "about: does a near source help?"),
    "set": ("sections", "laid over `defaults`.", "set: {pattern: tune}"),
    "axes": (
        "key: list of values",
        "all combinations; keys may be dotted.",
        "axes: {train.lr: [0.1, 0.01], seed: [0, 1, 2]}",
    ),
    "zip": (
        "list of mappings of lists",
        "lists whose values go together.",
        "zip: [{target.images_per_class: [5, 50], train.epochs: [40, 10]}]",
    ),
    "include": (
        "list of mappings",
        "further cells, crossed with the axes that they do not name.",
        "include: [{source: none, pattern: scratch}]",
    ),
    "exclude": (
        "list of mappings",
        "cells to leave out.",
        "exclude: [{train.lr: 0.1, pattern: freeze}]",
    ),
    "baseline": (
        "sections",
        "what each cell is compared with, in pairs.",
        "baseline: {source: none, pattern: scratch}",
    ),
}

CELL = {
    "target": "{dataset: wordnet-shapes, image_size: 32, images_per_class: 20}",
    "source": "{classes: {recipe: random, n: 10}}",
    "parent": "{source: near, pattern: freeze}",
    "weights": "{package: efficientnet-lite0}",
    "borrow": "{name: parent, categories: 0.1}",
    "model": "narrow8_32",
    "pattern": "F(1-3)T(4-7)R(8)",
    "method": "{name: svm, c: 1.0}",
    "train": "{lr: 0.01, epochs: 10}",
    "pretrain": "{epochs: 30}",
    "seed": "0",
    "seeds": "{draw: 0, init: 1}",
    "source_seed": "0",
    "class_draw": "2",
    "bank": "{target: {dataset: wordnet-shapes}, train: {epochs: 5}}",
    "evaluate": "{verification: {identities: 10}}",
    "allow_overlap": "true",
}

EXAMPLES: Mapping[str, Examples] = {
    "target": {
        "dataset": "folder",
        "root": "../photographs/birds",
        "classes": "{recipe: random, n: 10}",
        "image_size": ("224", "pixels"),
        "images_per_class": ("20", "images"),
        "val_per_class": ("20", "images"),
        "test_per_class": ("0.2", "images, or a share"),
        "test_from": "val",
        "on_short": "cap",
        "on_corrupt": "skip",
        "options": "{partial: true}",
        "views": "[whole, box]",
        "train_where": "{light: [dark]}",
        "resize": ("{image_size: 224, resize: 256}", "pixels"),
        "val_from": "{val_from: budget}",
        "val_share": "{val_from: budget, val_share: 0.3}",
        "tested": "false",
        "stored_as": "jpeg",
    },
    "recipe all": {"take": ("5", "classes")},
    "recipe listed": {"names": "[cat, dog]", "take": ("1", "classes")},
    "recipe random": {"n": ("10", "classes"), "class_draw": "1", "take": ("5", "classes")},
    "recipe under": {
        "synset": "dog.n.01",
        "n": ("10", "classes"),
        "rule": "closure",
        "class_draw": "1",
        "take": ("5", "classes"),
    },
    "recipe near_far": {
        "root": "dog.n.01",
        "side": "near",
        "target_n": ("10", "classes"),
        "source_n": ("30", "classes"),
        "rule": "closure",
        "branches": "artifact_or_food",
        "class_draw": "1",
        "take": ("5", "classes"),
    },
    "recipe categories": {
        "side": "source",
        "target_n": ("10", "classes"),
        "n": ("40", "classes"),
        "class_draw": "1",
        "take": ("20", "classes"),
    },
    "recipe half": {"side": "b", "class_draw": "1", "take": ("5", "classes")},
    "recipe at_least": {"images": ("100", "images"), "take": ("5", "classes")},
    "model": {"name": "resnet18", "filler": "li2019", "drop_rate": "0.2"},
    "train": {
        "optimizer": "adamw",
        "lr": ("0.001", "per step"),
        "copied_lr_factor": "0.1",
        "momentum": "0.0",
        "nesterov": "true",
        "weight_decay": "0.0001",
        "bias_lr_mult": "2.0",
        "bias_weight_decay": "false",
        "schedule": "step",
        "step_epochs": ("{schedule: step, step_epochs: 10}", "epochs"),
        "step_gamma": "{schedule: step, step_gamma: 0.5}",
        "warmup_epochs": ("0.5", "epochs"),
        "epochs": ("20", "epochs"),
        "batch_size": ("32", "images"),
        "accumulate": ("2", "batches"),
        "label_smoothing": "0.1",
        "precision": "bfloat16",
        "channels_last": "false",
        "augment": "scale_flip",
        "crop_pad": ("2", "pixels"),
        "expand_to": ("100", "images"),
        "equal_steps": "{expand_to: 100, equal_steps: true}",
        "select": "last",
        "evaluate_every": ("2", "epochs"),
        "explode_factor": "50.0",
        "threshold": "0.9",
        "frozen_dropout": "false",
        "tuned": "norm",
        "layer_lr_decay": "0.7",
        "l2_sp": "0.01",
        "refit": "true",
        "step_iterations": ("{schedule: step, step_iterations: 1000}", "steps"),
        "restart_every": ("5", "epochs"),
        "scale_least_area": "{augment: scale_flip, scale_least_area: 0.35}",
        "scale_most_aspect": "{augment: scale_flip, scale_most_aspect: 2.0}",
        "scale_antialias": "{augment: scale_flip, scale_antialias: true}",
        "policy": "trivialaugment",
        "policy_ops": "{policy: randaugment, policy_ops: 1}",
        "policy_magnitude": "{policy: randaugment, policy_magnitude: 5}",
        "random_erasing": "0.25",
        "mixup": "0.2",
        "cutmix": "1.0",
        "clip_norm": "1.0",
        "drop_path": "0.1",
        "ema": "0.999",
        "class_weights": "balanced",
        "sampling": "balanced",
        "unfreeze_every": ("2", "epochs"),
        "copied_statistics": "fixed",
        "head": "probe",
        "lora_rank": "{tuned: lora, lora_rank: 8}",
        "lora_alpha": "{tuned: lora, lora_alpha: 16.0}",
        "deterministic": "true",
        "cached_views": ("4", "views"),
        "batch_norm_parts": ("4", "parts"),
        "prefix_tolerance": ("0.001", "a share of the largest value"),
    },
    "seeds": {"draw": "1", "init": "1", "order": "1"},
    "borrow": {
        "data": "",
        "draw": "1",
        "categories": "0.1",
        "images": "0.5",
        "total_images": ("500", "images"),
        "exclude_overlap": "true",
    },
    "evaluate": {"verification": "{}"},
    "evaluate.verification": {
        "identities": ("20", "classes"),
        "identity_draw": "1",
        "images_per_identity": ("10", "images"),
        "where": "{light: [dark]}",
    },
    "method joint": {
        "target_weight": "2.0",
        "source_weight": "0.5",
        "batch_norm": "separate",
        "reindex": "false",
        "least_images_per_class": ("5", "images"),
        "most_per_class": ("2", "images"),
    },
    "method soft": {
        "schedule": "iteration",
        "ramp_epochs": ("8.0", "epochs"),
        "epoch_base": "1",
        "source_head": "random",
        "drop_at_end": "false",
        "second_weight": "0.5",
        "reindex": "true",
        "batch_norm": "separate",
    },
    "selection": {
        "bank": "gabor",
        "layers": "'1,2,3'",
        "stage": "post",
        "colour": "true",
        "crop": "1.0",
        "bins": "50",
        "epsilon": "0.0001",
        "k0": ("10", "images"),
        "min_source": ("500", "images"),
        "stored": ("200", "images"),
        "rounds": "3",
        "adaptive": "false",
        "delta": ("0.2", "nats"),
        "wrong_factor": "2",
        "unsure_factor": "1",
        "fuse": "true",
        "memory_mib": ("2048", "MiB"),
        "oversample_hard": "true",
        "responses_mib": ("1024", "MiB"),
        "partners": "random",
    },
    "method svm": {
        "layer": "'5'",
        "stage": "post",
        "c": "1.0",
        "max_iter": ("2000", "iterations"),
        "memory_mib": ("2048", "MiB"),
        "solver": "streaming",
        "normalise": "false",
        "parts": ("4", "parts"),
    },
    "method wise": {"alpha": "0.3"},
    "method soup": {
        "choose": "greedy",
        "over": "{train.lr: [0.01, 0.003], seeds.order: [0, 1, 2]}",
    },
    "method extract": {
        "layers": "'5,penultimate'",
        "stage": "post",
        "pool": "max",
        "split": "test",
        "images": ("500", "images"),
        "pixels": ("64", "pixels"),
    },
    "measure.distances": {
        "experiments": "[near-far]",
        "where": "{class_draw: 0}",
        "layer": "'5'",
        "stage": "post",
        "pool": "mean",
        "split": "test",
        "images": ("500", "images"),
        "network": "{timm: resnet18}",
        "resamples": "500",
        "permutations": "1000",
        "cnn_epochs": ("4", "epochs"),
        "seed": "1",
    },
    "measure.filters": {
        "experiments": "[near-far]",
        "where": "{lr: 0.01}",
        "layers": "['4', '5']",
        "stage": "post",
        "split": "val",
        "choose_on": "val",
        "top": ("3", "filters"),
        "images": ("500", "images"),
    },
    "measure.transferability": {
        "experiments": "[near-far]",
        "where": "{class_draw: 0}",
        "layer": "'5'",
        "images": ("500", "images"),
        "k": ("10", "images"),
    },
    "slurm": {
        "partition": "gpu",
        "account": "my-project",
        "qos": "normal",
        "constraint": "a100",
        "gres": "'gpu:1'",
        "nodelist": "'node[1-4]'",
        "exclude": "node7",
        "gpus": "4",
        "gpus_per_node": "1",
        "cpus_per_task": "4",
        "memory_gib": ("16", "GiB"),
        "timeout_min": ("120", "minutes"),
        "additional": "{reservation: course}",
        "source": "{timeout_min: 600}",
        "finetune": "{memory_gib: 8}",
        "leaderboard": "{partition: cpu}",
        "decode": "{partition: cpu, cpus_per_task: 32}",
        "decode_from": ("20000", "images"),
        "runs_per_job": ("20", "runs"),
        "job_min": ("30", "minutes"),
        "max_jobs": ("50", "jobs"),
        "max_attempts": "2",
        "max_requeues": "10",
        "signal_delay_s": ("300", "seconds"),
        "checkpoint_s": ("120", "seconds"),
        "grace_s": ("120", "seconds"),
        "lag_s": ("120", "seconds"),
        "threads": "4",
        "device": "cuda",
        "last_job": "false",
        "tensorboard": "true",
    },
    "race": {
        "budget": ("1h30m", "hours, minutes, seconds"),
        "seeds": ("{budget: 2h, seeds: 3}", "runs"),
    },
}


def recipes() -> dict[str, type[BaseModel]]:
    """The models of the class recipes, by name."""
    kinds = get_args(get_args(ClassRecipe)[0])
    found = {kind.model_fields["recipe"].default: kind for kind in kinds}
    return {name: found[name] for name in RECIPES}


def methods() -> dict[str, type[BaseModel]]:
    """The models of the methods' own options, by name."""
    return {name: entry.load(entry.options) for name, entry in METHODS.items()}


def described(kind: type[BaseModel]) -> dict[str, str]:
    """What the docstrings of a model and of those that it is made of have on each field."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        _, _, part = (base.__dict__.get("__doc__") or "").partition("Attributes:\n")
        part = re.split(r"\n\n", part)[0]
        for names, text in re.findall(r"^ {8}(\w[\w, ]*): (.*(?:\n {9,}.*)*)", part, re.MULTILINE):
            sentence = re.sub(r"\bNone\b", "`null`", re.sub(r"\s+", " ", text))
            found |= dict.fromkeys(names.split(", "), sentence)
    return found


def type_words(part: Mapping[str, Any]) -> str:
    """The type of a field in words, from its JSON schema.

    >>> type_words({"type": "integer", "minimum": 1})
    'whole number, at least 1'
    """
    options = part.get("anyOf") or part.get("oneOf")
    if options:
        words = (type_words(option) for option in options)
        return " or ".join(dict.fromkeys(words))
    if "enum" in part or "const" in part:
        values = part.get("enum", [part.get("const")])
        return ", ".join(f"`{value}`" for value in values)
    if "$ref" in part:
        return "mapping"
    if "allOf" in part:
        return type_words(part["allOf"][0])
    plain = {
        "integer": "whole number",
        "number": "number",
        "string": "text",
        "boolean": "`true`, `false`",
        "array": "list",
        "object": "mapping",
        "null": "`null`",
    }[part.get("type", "object")]
    bounds = (
        ("minimum", "at least"),
        ("exclusiveMinimum", "above"),
        ("maximum", "at most"),
        ("exclusiveMaximum", "below"),
    )
    limits = [f"{word} {part[key]:g}" for key, word in bounds if key in part and part[key] < 10**9]
    return ", ".join([plain, *limits])


def example_of(examples: Examples, key: str) -> tuple[dict[str, Any], str]:
    """The keys of an example with their values, and the unit.

    >>> example_of({"lr": ("0.1", "per step")}, "lr")
    ({'lr': 0.1}, 'per step')
    """
    found = examples[key]
    text, unit = (found, "") if isinstance(found, str) else found
    value = yaml.safe_load(text)
    return (value if isinstance(value, dict) and key in value else {key: value}), unit


def in_yaml(value: Any) -> str:
    """A value as a grid has it, on one line.

    >>> in_yaml({"a": [1, "x"], "b": None})
    '{a: [1, x], b: null}'
    """
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...")


def default_of(kind: type[BaseModel], key: str) -> str:
    """The default of a field in YAML, or that it must be given."""
    field = kind.model_fields[key]
    if field.is_required():
        return "must be given"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        value = value.model_dump(exclude_defaults=True)
        value = {"recipe": "all"} if key == "classes" else value
    value = list(value) if isinstance(value, tuple) else value
    return f"`{in_yaml(float(f'{value:.5g}') if isinstance(value, float) else value)}`"


def table(kind: type[BaseModel], examples: Examples, left_out: Collection[str] = ()) -> list[str]:
    """A table of the keys of a model.

    Raises:
        KeyError: a key has no example, or no sentence.
    """
    sentences = described(kind)
    found = []
    for key, part in kind.model_json_schema()["properties"].items():
        if key in left_out:
            continue
        example, unit = example_of(examples, key)
        words = type_words(part) + (f" ({unit})" if unit else "")
        if words == "list" and isinstance(example[key], dict):  # it is kept as pairs
            words = "mapping"
        shown = "; ".join(f"{name}: {in_yaml(value)}" for name, value in example.items())
        cells = (sentence(sentences[key]), words, default_of(kind, key), f"`{shown}`")
        found.append(row(f"`{key}`", *cells))
    return [*_HEAD, *found]


_HEAD = ("| key | meaning | type (unit) | default | example |", "| --- | --- | --- | --- | --- |")


def row(*cells: str) -> str:
    """A line of a table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def sentence(text: str) -> str:
    """With a capital in front."""
    return text if text.startswith("`") else text[0].upper() + text[1:]


def sections() -> dict[str, tuple[type[BaseModel], Examples, tuple[str, ...]]]:
    """Headings, each with its model, its examples and the keys that a grid does not have."""
    own = methods()
    return {
        "target": (DataSpec, EXAMPLES["target"], ()),
        **{
            f"classes: {{recipe: {name}}}": (kind, EXAMPLES[f"recipe {name}"], ("recipe",))
            for name, kind in recipes().items()
        },
        "model": (ModelSpec, EXAMPLES["model"], ()),
        "train": (TrainSpec, EXAMPLES["train"], ()),
        "seeds": (Seeds, EXAMPLES["seeds"], ()),
        "borrow": (Borrowed, EXAMPLES["borrow"], ("data",)),
        "evaluate": (EvaluateSpec, EXAMPLES["evaluate"], ()),
        "evaluate.verification": (VerificationSpec, EXAMPLES["evaluate.verification"], ()),
        "method: joint": (own["joint"], EXAMPLES["method joint"], ()),
        "method: soft": (own["soft"], EXAMPLES["method soft"], ()),
        "method: selective, and soft_selective": (SelectionOptions, EXAMPLES["selection"], ()),
        "method: svm": (own["svm"], EXAMPLES["method svm"], ()),
        "method: probe": (own["probe"], EXAMPLES["method svm"], ()),
        "method: extract": (own["extract"], EXAMPLES["method extract"], ()),
        "method: wise": (own["wise"], EXAMPLES["method wise"], ()),
        "method: soup": (own["soup"], EXAMPLES["method soup"], ()),
        **{
            f"measure: {name}": (kind, EXAMPLES[f"measure.{name}"], ())
            for name, kind in KINDS.items()
        },
        "slurm": (SlurmSettings, EXAMPLES["slurm"], ()),
        "race": (RaceSpec, EXAMPLES["race"], ()),
    }


BEFORE = {
    "target": "The user's data. `source`, and what stands in `sources` and `targets`, have the "
    "same keys; a source of the same data set takes over what it does not give.",
    "train": "How a run is trained. `pretrain` has the same keys, for the training of the source.",
    "borrow": "A selection that is trained on beside the target: the keys of `target`, or `name: "
    "parent` or a name of `sources`, and these. A list makes a domain of each; `{pool: [...]}` one "
    "of all.",
    "method: selective, and soft_selective": "Beside these, `selective` has the keys of `joint`, "
    "and `soft_selective` those of `soft`.",
    "method: wise": "WiSE-FT (Wortsman et al. 2022) trains nothing: the run's weights lie on the "
    "line from those that its parent, a fine-tuning of the same target, began with to those that "
    "it ended with. Layers that began at random are the fine-tuned ones at both ends, the "
    "classifier too; with `train.head: probe` the classifier began as that regression. BatchNorm's "
    "running statistics are averaged as weights are. `{source: none, pattern: F(1-8), parent: "
    "{source: near, pattern: tune}}` goes with it.",
    "method: soup": "A soup (Wortsman et al. 2022) trains nothing itself: its weights are the mean "
    "of those of plain fine-tunings of one source, which are this very cell with the values of "
    "`over` set. The plan adds them, or shares them with experiments that have them. In the paper "
    "all begin with one classifier: write `train.head: probe`, or leave `seeds.init` out of "
    "`over`. BatchNorm's running statistics are averaged as weights are. `{source: near, pattern: "
    "tune, train.head: probe, method: {name: soup, choose: greedy, over: {train.lr: [0.01, "
    "0.003], seeds.order: [0, 1, 2]}}}` averages up to six; a plain run of the same cell is what "
    "to compare it with.",
    "slurm": "What jobs ask for, and how they are sent. `source`, `finetune`, `leaderboard` and "
    "`decode` have the keys from `partition` to `additional` and are laid over them.",
    "race": "The recipes of one target race as with `bench grid --budget`: rungs of growing epochs "
    "are halved on validation images, and the one that is left is run as the grid has it. What a "
    "recipe starts from has the rung's share of the epochs too where it is trained on the target.",
}


def page() -> str:
    """The whole reference."""
    top = [row(f"`{key}`", sentence(t), kind, d, f"`{e}`") for key, (kind, d, t, e) in TOP.items()]
    of_experiment = [
        row(f"`{key}`", sentence(text), kind, "", f"`{example}`")
        for key, (kind, text, example) in EXPERIMENT.items()
    ]
    cell = [
        row(f"`{key}`", sentence(text), f"`{key}: {CELL[key]}`") for key, text in SECTIONS.items()
    ]
    lines = [
        "# Every key of a grid",
        "",
        "`scripts/grid_reference.py` writes this page from the models that read a grid, and a test "
        "compares. A grid is a YAML file; `bench grid FILE --dry-run` reads it and trains nothing, "
        "and an error names file and line. The [README](../README.md) has a first grid.",
        "",
        "## The file",
        "",
        *_HEAD,
        *top,
        "",
        "Paths: the grid's own `root` and a `root` of a selection are relative to the grid file; a "
        "selection's is also looked for in the current folder and where data sets lie.",
        "",
        "## An experiment",
        "",
        *_HEAD,
        *of_experiment,
        "",
        "Keys of `axes`, `zip`, `include`, `exclude` and `--set` may be dotted: `train.lr`.",
        "",
        "## A cell",
        "",
        "What stands under `defaults`, `set` and `baseline`, and what axes vary.",
        "",
        "| key | meaning | example |",
        "| --- | --- | --- |",
        *cell,
        "",
    ]
    for name, (kind, examples, left_out) in sections().items():
        method = METHODS.get(name.removeprefix("method: "))
        about = sentence(method.summary) + "." if method else (kind.__doc__ or "").split("\n")[0]
        about = BEFORE.get(name, about)
        lines += [f"### {name}", "", about, "", *table(kind, examples, left_out), ""]
    return "\n".join(lines)


def main() -> None:
    """Writes the page."""
    OUT.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
