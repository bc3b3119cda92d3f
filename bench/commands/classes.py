"""`bench classes`: list, count and draw the classes that a recipe selects."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, cast, get_args

import typer

from bench.commands._options import DataRoot, Results, as_path, grouped, say
from bench.core.errors import BenchError
from bench.specs.recipes import EPILOG


@dataclass(frozen=True)
class Shown:
    """What is shown of the classes, instead of a line for each."""

    count: Annotated[bool, typer.Option("--count", help="print the number alone")] = False
    tree: Annotated[bool, typer.Option("--tree", help="print the WordNet tree")] = False
    figure: Annotated[
        Path | None,
        typer.Option(help="draw the tree into a file, .svg or .png", parser=as_path),
    ] = None


@grouped
def classes(
    recipe: Annotated[
        str | None, typer.Argument(help="a class recipe as YAML, {recipe: random, n: 10}")
    ] = None,
    under: Annotated[str | None, typer.Option(help="a synset: dog.n.01 or n02084071")] = None,
    rule: Annotated[
        str, typer.Option(help="first_pointer, closure or longest_path")
    ] = "first_pointer",
    dataset: Annotated[str, typer.Option(help="whose classes")] = "wordnet-shapes",
    root: Annotated[str | None, typer.Option(help="where the data set lies")] = None,
    data_root: DataRoot = None,
    results: Results = Path("results"),
    *,
    shown: Shown,
) -> None:
    """List, count and draw classes: below a synset, or by any recipe of a grid."""
    from bench.commands._selections import parse_recipe
    from bench.data.catalog import open_dataset
    from bench.data.selection.classes import select
    from bench.data.wordnet.hierarchy import Rule, taxonomy

    if recipe is not None and under is not None:
        raise BenchError("give a recipe or --under, not both")
    if rule not in get_args(Rule):
        raise BenchError(f"--rule {rule!r} is not known", hint=", ".join(get_args(Rule)))
    if under:
        recipe = f"{{recipe: under, synset: {under}, rule: {rule}}}"
    data = open_dataset(dataset, root, data_root=data_root, cache_dir=results / "cache")
    wanted = parse_recipe(recipe or "{recipe: all}")
    names = select(wanted, data.classes, wnid_keyed=data.wnid_keyed, dataset=dataset).names
    words = taxonomy()
    if shown.figure is not None:
        from bench.commands.class_images import draw_tree

        lines = [draw_tree({"selected": names}, shown.figure), str(shown.figure)]
    elif shown.count:
        lines = [str(len(names))]
    elif not data.wnid_keyed:
        lines = list(names)
    elif shown.tree:
        lines = words.tree_lines(under or "entity.n.01", cast(Rule, rule), names)
    else:
        lines = [f"{name}  {words.name(name)}" for name in names]
    for line in lines:
        say(line)


def register(app: typer.Typer) -> None:
    """Adds the command to the application."""
    app.command(epilog=EPILOG)(classes)
