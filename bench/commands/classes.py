"""`bench classes`: list, count and draw the classes that a recipe selects."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.commands._options import DataRoot, Results, as_path
from bench.specs.recipes import EPILOG


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
    count: Annotated[bool, typer.Option("--count", help="print the number alone")] = False,
    tree: Annotated[bool, typer.Option("--tree", help="print the WordNet tree")] = False,
    figure: Annotated[
        Path | None, typer.Option(help="draw the tree into a file, .svg or .png", callback=as_path)
    ] = None,
) -> None:
    """List, count and draw classes: below a synset, or by any recipe of a grid."""
    from bench.commands._class_lines import class_lines

    lines = class_lines(
        recipe=recipe,
        under=under,
        rule=rule,
        dataset=dataset,
        root=root,
        data_root=data_root,
        cache=results / "cache",
        count=count and figure is None,
        tree=tree and figure is None,
    )
    if figure is not None:
        from bench.commands.class_images import draw_tree

        names = [line.split("  ")[0] for line in lines]
        lines = [draw_tree({"selected": names}, figure), str(figure)]
    for line in lines:
        typer.echo(line)


def register(app: typer.Typer) -> None:
    """Adds the command to the application."""
    app.command(epilog=EPILOG)(classes)
