"""The one network that a finished run stands for, whatever its method was.

A probe or an SVM is a linear classifier on the features that the network hands to its own one, so
its weights take that one's place.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from bench.core.errors import StoreError
from bench.models import layers, weights
from bench.models.domains import classifier_name
from bench.models.inputs import attach, statistics_of
from bench.results.lookup import Network, read_network
from bench.results.records import slug
from bench.results.store import RunFolder
from bench.specs.pattern import LayerPattern
from bench.specs.run import FromRun, RunSpec, Scratch

ON_FEATURES = ("probe", "svm")


def exported_network(folder: RunFolder) -> Network:
    """The network of a run in evaluation mode, with the run's classes as its outputs.

    Args:
        folder: of a run that is done; a parent lies beside it.

    Raises:
        StoreError: no result, files gone or damaged, or nothing that one network can stand for.
    """
    record = folder.record()
    if record is None:
        raise StoreError(
            "the run has no result yet", place=str(folder.path), hint="run its grid again"
        )
    spec = folder.spec()
    if spec.data.views:
        raise _refused(folder, f"its samples are views {', '.join(spec.data.views)}")
    if spec.method.name not in ON_FEATURES:
        network = read_network(folder)
        network.model.eval()
        return network
    options = dict(spec.method.options)
    if options["layer"] != "penultimate":
        raise _refused(folder, f"its classifier is on layer {options['layer']}")
    if options["normalise"]:
        raise _refused(
            folder,
            "its features are scaled to length 1, which no linear layer does",
            f"run it with method: {{name: {spec.method.name}, normalise: false}}",
        )
    classes = tuple(record["classes"])
    model = trunk_of(spec, folder, len(classes))
    linear = weights.read_state(folder.weights_path)
    classifier = model.get_submodule(classifier_name(model))
    (layer,) = (module for module in classifier.modules() if isinstance(module, nn.Linear))
    layer.load_state_dict({name.removeprefix("probe."): linear[name] for name in linear})
    return Network(model.eval(), spec, classes)


def _parent(spec: RunSpec, folder: RunFolder) -> RunFolder:
    """The run beside `folder` that has a spec."""
    found = [
        RunFolder(path, path.name.rpartition("-")[2])
        for path in sorted(folder.path.parent.glob(f"{slug(spec)}-*"))
    ]
    found = [one for one in found if one.record_path.is_file() and one.spec() == spec]
    if len(found) != 1:
        why = "is not beside it" if not found else f"may be any of {len(found)}: images changed"
        raise StoreError(
            f"the run that this one started from {why}",
            place=str(folder.path.parent),
            hint="export from the results folder in which both were trained",
        )
    return found[0]


def trunk_of(spec: RunSpec, folder: RunFolder, classes: int) -> nn.Module:
    """The network before it was trained: what the run's pattern copies, and a random classifier."""
    state: Mapping[str, Tensor] | None = None
    match spec.init:
        case Scratch():
            pass
        case FromRun():
            state = weights.read_state(_parent(spec.init.run, folder).weights_path)
        case other:
            state = weights.load_state(other, spec.model.name, image_size=spec.data.image_size)
    size, seed, depth = spec.data.image_size, spec.seeds.init, spec.layers.depth
    model = layers.create(spec.model, classes, seed=seed, image_size=size)
    below = "".join(f"{spec.layers.kind(layer)}({layer})" for layer in range(1, depth))
    layers.apply_pattern(model, LayerPattern.parse(f"{below}R({depth})"), state)
    attach(model, statistics_of(spec))
    return model


def _refused(folder: RunFolder, why: str, way: str | None = None) -> StoreError:
    return StoreError(
        f"the run cannot be one network: {why}",
        place=str(folder.path),
        hint=way or "export a run of whole images on a network's own features",
    )
