"""Commands that draw: class images, similarity of two images, the class tree of a grid."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from bench.commands._options import (
    DataRoot,
    GridFile,
    Only,
    Results,
    Set,
    as_path,
    console,
    grouped,
)
from bench.core.errors import BenchError, DataError, nearest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from analysis.networks.layer_maps import Stage
    from analysis.networks.trained import Trained


_STAGES = ("pre", "post", "end", "output")


@dataclass(frozen=True)
class AscentOptions:
    """How a class's image is climbed to."""

    l2: Annotated[
        float | None, typer.Option(help="weight of the penalty; chosen by the images' size if not")
    ] = None
    steps: Annotated[int, typer.Option(min=1, help="of gradient ascent")] = 200
    jitter: Annotated[int, typer.Option(min=0, help="pixels that the image is moved by")] = 0
    blur: Annotated[float, typer.Option(min=0, help="Gaussian after each step, in pixels")] = 0.0


@grouped
def class_images(
    runs: Annotated[list[str], typer.Argument(metavar="RUN…", help="runs, as bench show takes")],
    out: Annotated[
        Path,
        typer.Option(help="folder for class-images.png and class-images.csv", parser=as_path),
    ],
    classes: Annotated[
        list[str] | None,
        typer.Option(help="names or WordNet ids, separated by commas; the first six if left out"),
    ] = None,
    *,
    ascent: AscentOptions,
    as_is: Annotated[bool, typer.Option(help="do not stretch the contrast of each image")] = False,
    photographs: Annotated[bool, typer.Option(help="show a test image of each class too")] = True,
    data_root: DataRoot = None,
    results: Results = Path("results"),
) -> None:
    """Draw the image that a network takes for each class, for several runs side by side."""
    from analysis.figures.class_sheet import class_sheet, example_images
    from analysis.figures.style import styled, to_png
    from analysis.networks.class_images import Ascent
    from bench.core.files import write_atomic, write_csv

    networks = _networks(runs, results)
    wanted = _classes(classes, networks)
    options = Ascent(**asdict(ascent))
    examples = example_images(networks, wanted, data_root, results / "cache") if photographs else {}
    with styled():
        sheet = class_sheet(networks, wanted, options, examples, "as is" if as_is else "stretched")
    write_atomic(out / "class-images.png", to_png(sheet.figure))
    write_csv(out / "class-images.csv", sheet.rows)
    screen = console()
    screen.print(sheet.caption, highlight=False)
    for name in ("class-images.png", "class-images.csv"):
        screen.print(f"{out / name}", highlight=False)


def similarity(
    first: Annotated[Path, typer.Argument(metavar="IMAGE", help="a file", parser=as_path)],
    second: Annotated[Path, typer.Argument(metavar="IMAGE", help="a file", parser=as_path)],
    runs: Annotated[
        list[str], typer.Option(help="runs, as bench show takes; separated by commas, or repeated")
    ],
    layer: Annotated[
        str | None,
        typer.Option(
            help="a layer's number or a module's name; conv4 if left out: layer3 of a ResNet, "
            "layer 4 of others"
        ),
    ] = None,
    stage: Annotated[
        str, typer.Option(help="of the layer: pre or post activation, its end, or output")
    ] = "post",
    out: Annotated[Path, typer.Option(help="a file, .svg or .png", parser=as_path)] = Path(
        "similarity.png"
    ),
    results: Results = Path("results"),
) -> None:
    """Draw where two images are alike to networks: similarity at each position of a layer."""
    import numpy as np

    from analysis.figures.sheets import Cell, similarity_sheet
    from analysis.figures.style import styled
    from analysis.networks.layer_maps import conv4, pair_similarity, read_picture

    if stage not in _STAGES:
        raise BenchError(f"--stage {stage!r} is not known", hint=nearest(stage, _STAGES))
    networks = _networks([name for text in runs for name in text.split(",") if name], results)
    files = (first, second)
    maps = {}
    layers = {name: layer or conv4(network) for name, network in networks.items()}
    for name, network in networks.items():
        pixels = np.stack([read_picture(path, network.size) for path in files])
        maps[name] = pair_similarity(network, pixels, layers[name], cast("Stage", stage))
    largest = max(network.size for network in networks.values())
    cells = tuple(Cell(read_picture(path, max(largest, 96)), path.name) for path in files)
    with styled():
        figure, caption = similarity_sheet({"": (cells[0], cells[1])}, {"": maps})
    _save(figure, out)
    screen = console()
    shown = " and ".join(dict.fromkeys(layers.values()))
    screen.print(f"layer {shown}, {stage}. {caption}", highlight=False)
    screen.print(f"{out}", highlight=False)


def class_tree(
    grid: GridFile,
    out: Annotated[Path, typer.Option(help="a file, .svg or .png", parser=as_path)] = Path(
        "tree.svg"
    ),
    target: Annotated[
        str | None, typer.Option(help="beginning of a task's title; the first one if left out")
    ] = None,
    rows: Annotated[int, typer.Option(min=2, help="lines; branches without room are closed")] = 120,
    only: Only = None,
    set_: Set = None,
    data_root: DataRoot = None,
    results: Results = Path("results"),
) -> None:
    """Draw the WordNet tree of a grid's target and source classes."""
    from analysis.networks.class_tree import grid_groups
    from bench.planning.workspace import open_session

    session = open_session(
        grid,
        results=results,
        data_root=data_root,
        only=only or (),
        overrides=set_ or (),
        allow_missing=False,
        folder="any",
    )
    title, groups = grid_groups(session.plan, target)
    _print_tree(draw_tree(groups, out, rows, title), out)


def draw_tree(
    groups: Mapping[str, Sequence[str]], out: Path, rows: int = 120, title: str = ""
) -> str:
    """Writes the tree of some groups of wnids to a file; the caption.

    Raises:
        BenchError: the classes are not WordNet's, or the file is neither .svg nor .png.
    """
    from analysis.figures.sheets import tree_sheet
    from analysis.figures.style import styled

    others = [w for group in groups.values() for w in group if not re.fullmatch(r"n\d{8}", w)]
    if others:
        raise DataError(
            f"class {others[0]!r} is no WordNet id", hint="a tree needs a data set with such ids"
        )
    with styled():
        figure, caption = tree_sheet(groups, rows, title)
    _save(figure, out)
    return caption


def _print_tree(caption: str, out: Path) -> None:
    screen = console()
    screen.print(caption, highlight=False)
    screen.print(f"{out}", highlight=False)


# --- parts ---------------------------------------------------------------------------------------


def _networks(runs: Sequence[str], results: Path) -> dict[str, Trained]:
    """The networks of runs by their names; equal names get the beginning of the run's id."""
    from analysis.networks.trained import read_trained
    from bench.results.lookup import find_run

    if not runs:
        raise BenchError("no run is named", hint="see the run_id column of a leaderboard")
    found = [read_trained(find_run(run, results)) for run in runs]
    names = [network.name for network in found]
    return {
        network.name
        if names.count(network.name) == 1
        else f"{network.name} {network.run_id[:6]}": network
        for network in found
    }


def _classes(asked: Sequence[str] | None, networks: Mapping[str, Trained]) -> list[str]:
    """Classes by their names in the networks; words of WordNet will do.

    Raises:
        DataError: none of the networks has the class.
    """
    from analysis.figures.class_sheet import class_word

    known = list(dict.fromkeys(name for n in networks.values() for name in n.classes))
    if not asked:
        return known[:6]
    words = {class_word(name).lower(): name for name in known}
    wanted = []
    for text in asked:
        for name in [text] if text in known else text.split(","):
            name = name.strip()
            if name not in known and name.lower() not in words:
                raise DataError(
                    f"no run named here has a class {name!r}",
                    hint=f"classes: {nearest(name, {class_word(n) for n in known})}",
                )
            wanted.append(name if name in known else words[name.lower()])
    return list(dict.fromkeys(wanted))


def _save(figure: Figure, out: Path) -> None:
    from analysis.figures.style import to_png, to_svg
    from bench.core.files import write_atomic

    makers = {".svg": to_svg, ".png": to_png}
    if out.suffix.lower() not in makers:
        raise BenchError(f"--out {out} is neither .svg nor .png", hint="choose one of them")
    write_atomic(out, makers[out.suffix.lower()](figure))


def register(app: typer.Typer) -> None:
    """Adds the commands to the application."""
    for name, command in (
        ("class-images", class_images),
        ("similarity", similarity),
        ("class-tree", class_tree),
    ):
        app.command(name)(command)
