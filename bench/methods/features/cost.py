"""What fitting a linear classifier to features costs; nothing here needs torch."""

from __future__ import annotations

from bench.specs.run import RunSpec

PASSES, READ_BYTES = 40, 2 * 2**40
"""Iterations over features in a file: as many as read so many bytes, and never fewer than 40."""

_USUAL_ITERATIONS = 200
_BYTES_PER_S, _OPERATIONS_PER_S = 1e9, 5e10
_CHOICES = {"probe": 5, "svm": 4}
"""Values of C that are tried where none is given."""

_CAFFENET = (69_984, 43_264, 64_896, 64_896, 9_216, 4_096, 4_096)
"""Numbers that CaffeNet's layers hand on for an image of 227 pixels."""
_USUAL_COLUMNS = 4_096


def most_iterations(feature_bytes: int) -> int:
    """Iterations of L-BFGS over features in a file, unless the exact solution is asked for.

    >>> most_iterations(2 * 10**9), most_iterations(35 * 10**9), most_iterations(10**12)
    (1099, 62, 40)
    """
    return max(PASSES, READ_BYTES // max(1, feature_bytes))


def copies_of(spec: RunSpec) -> int:
    """Of each training image, those that a probe or an SVM is fitted to: the whole, and parts."""
    return 1 + int(dict(spec.method.options).get("parts") or 0)


def fit_s(spec: RunSpec, images: int, classes: int) -> float:
    """Seconds that the solver of a probe or an SVM takes, very roughly, on one worker.

    Of a file 1 GB is read in a second, and a CPU does 50 billion operations; a GPU is faster.
    Widths are those of CaffeNet's layers, and 4,096 columns for all others.

    Args:
        spec: of a run whose method is `probe` or `svm`.
        images: of the training set.
        classes: of the target.
    """
    options = dict(spec.method.options)
    layer = str(options.get("layer", "penultimate"))
    columns = _USUAL_COLUMNS
    if spec.model.name == "caffenet" and layer.isdigit() and int(layer) <= len(_CAFFENET):
        columns = _CAFFENET[int(layer) - 1]
    images *= copies_of(spec)
    size = 4 * images * columns
    choices = _CHOICES[spec.method.name] if options.get("c") is None else 1
    work = 4 * images * columns * classes * choices / _OPERATIONS_PER_S
    in_memory = 3 * size <= int(options.get("memory_mib") or 1024) * 2**20
    asked = options.get("solver", "auto")
    if asked == "sklearn" or (asked == "auto" and in_memory):
        return _USUAL_ITERATIONS * work
    most = _USUAL_ITERATIONS if asked == "streaming" else most_iterations(size)
    iterations = min(_USUAL_ITERATIONS, most)
    return iterations * (work + size / _BYTES_PER_S)
