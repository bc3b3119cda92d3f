"""The WordNet tree of a selection of classes, short enough to be drawn.

"A Multifaceted Analysis of Fine-tuning in Deep Model for Visual Recognition", Figs. 2, 3 and 6:
each class hangs at its first hypernym, up to the root. Synsets between that have one child and are
no class themselves are left out; where there are more rows than wanted, the branches with the
fewest classes are closed and say how many classes they hold, as those of Fig. 6 do.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.core.errors import DataError, nearest
from bench.data.wordnet.hierarchy import Taxonomy, taxonomy
from bench.results.records import selection_label, source_label
from bench.specs.planned import Plan

ROWS = 120
_ROOT = "entity.n.01"


@dataclass(frozen=True)
class TreeRow:
    """A line of the tree.

    Attributes:
        depth: number of lines above it that it hangs from.
        wnid, name: of the synset.
        counts: classes of each group at or below it, in the order of the groups.
        total: classes at or below it, each counted once.
        kind: `class`, an `open` branch whose parts follow, or a `closed` one.
    """

    depth: int
    wnid: str
    name: str
    counts: tuple[int, ...]
    total: int
    kind: str


@dataclass
class _Node:
    wnid: str
    name: str
    classes: frozenset[str]
    children: list[_Node]


def class_tree(
    groups: Mapping[str, Sequence[str]], rows: int = ROWS, words: Taxonomy | None = None
) -> list[TreeRow]:
    """The tree of all classes of some groups, from the root on, each synset before what is below.

    Args:
        groups: wnids by name of the group, such as target, near and far; they may share classes.
        rows: lines at most; the branches with most classes are opened first.
        words: the taxonomy, by default that of ILSVRC2012.

    Raises:
        DataError: no class, a class that WordNet does not have, or fewer than two rows.

    >>> tree = class_tree({"dogs": ["n02088364", "n02088466"], "cats": ["n02123045"]})
    >>> [("  " * row.depth) + row.name for row in tree]
    ['carnivore', '  hound', '    beagle', '    bloodhound', '  tabby']
    """
    words = words or taxonomy()
    classes = list(dict.fromkeys(wnid for group in groups.values() for wnid in group))
    if not classes:
        raise DataError("no class is selected", hint="see bench classes")
    if rows < 2:
        raise DataError(f"{rows} rows for a tree", hint="give 2 or more")
    root = _condensed(_grown(classes, words))
    opened = _opened(root, rows)
    members = [frozenset(group) for group in groups.values()]
    found: list[TreeRow] = []

    def tell(node: _Node, depth: int) -> None:
        counts = tuple(len(node.classes & group) for group in members)
        kind = "open" if id(node) in opened else "closed" if node.children else "class"
        found.append(TreeRow(depth, node.wnid, node.name, counts, len(node.classes), kind))
        if id(node) in opened:
            for child in node.children:
                tell(child, depth + 1)

    tell(root, 0)
    return found


def _grown(classes: Sequence[str], words: Taxonomy) -> _Node:
    """The tree of all first-pointer paths; a class with others below it hangs in itself."""
    below: dict[str, set[str]] = {}
    under: dict[str, set[str]] = {}
    for wnid in classes:
        path = words.first_pointer_path(wnid)
        for above, here in itertools.pairwise(path):
            below.setdefault(above, set()).add(here)
        for step in path:
            under.setdefault(step, set()).add(wnid)
    roots = {words.first_pointer_path(wnid)[0] for wnid in classes}
    if len(roots) > 1:
        raise DataError(f"the classes have {len(roots)} roots: {', '.join(sorted(roots))}")

    def grow(wnid: str) -> _Node:
        children = [grow(child) for child in below.get(wnid, ())]
        if children and wnid in under[wnid]:
            children.append(_Node(wnid, words.name(wnid), frozenset([wnid]), []))
        return _Node(wnid, words.name(wnid), frozenset(under[wnid]), children)

    return grow(roots.pop())


def _condensed(node: _Node) -> _Node:
    while len(node.children) == 1:
        node = node.children[0]
    children = [_condensed(child) for child in node.children]
    node.children = sorted(children, key=lambda child: (child.name.lower(), child.wnid))
    return node


def _opened(root: _Node, rows: int) -> set[int]:
    """Which branches are open: the largest first, as long as their parts find room."""
    opened: set[int] = set()
    shown = 1
    waiting = [root] if root.children else []
    while waiting:
        node = max(waiting, key=lambda n: (len(n.classes), n.wnid))
        waiting.remove(node)
        if shown + len(node.children) <= rows:
            opened.add(id(node))
            shown += len(node.children)
            waiting += [child for child in node.children if child.children]
    return opened


def grid_groups(plan: Plan, target: str | None = None) -> tuple[str, dict[str, tuple[str, ...]]]:
    """Target and source classes of one task of a grid, for `class_tree`.

    Args:
        plan: of a grid on classes of WordNet.
        target: beginning of a title; the first task by default.

    Returns:
        The task's title, such as "animal.n.01, draw 0", and wnids by group: target, and every
        source by its name (near, far, …).

    Raises:
        DataError: the classes are not WordNet's, or there is no such task, with those there are.
    """
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    named: set[str] = set()
    for run in plan.runs.values():
        if not run.experiments:
            continue
        named.add(run.spec.data.dataset)
        if run.facts.key_space != "wordnet":
            continue
        draw = getattr(run.spec.data.classes, "class_draw", None)
        title = selection_label(run.spec.data) + ("" if draw is None else f", draw {draw}")
        groups = found.setdefault(title, {"target": run.facts.classes})
        parent = plan.runs.get(run.parent_id or "")
        if parent is not None and parent.facts.classes != run.facts.classes:
            groups.setdefault(source_label(run.spec), parent.facts.classes)
    if not found:
        raise DataError(
            f"the classes are those of {', '.join(sorted(named)) or 'no run'}, not WordNet's",
            hint="a class tree needs a data set with WordNet ids, such as tiny-imagenet",
        )
    if target is None:
        return next(iter(found.items()))
    kept = [title for title in found if title.startswith(target)]
    if not kept:
        raise DataError(f"no task begins with {target!r}", hint=f"tasks: {nearest(target, found)}")
    return kept[0], found[kept[0]]
