"""Which classes of a data set a run learns from: the recipes of `bench.specs.run`, carried out.

The recipes are those of "A Multifaceted Analysis of Fine-tuning in Deep Model for Visual
Recognition" (§4.1-4.4: random targets, number of source categories, near and far sources) and of
"Best Practices for Fine-tuning Visual Classifiers to New Domains" (random halves).

A draw puts the classes in the order of SHA-256("<what is drawn>|<draw>|<class>"). That is a uniform
random order which needs no generator, is the same on every machine and in every version, does not
depend on the order in which the classes were found, and keeps its order when classes are left out.
So the first n of a draw are nested in n, and what is drawn from the rest of a draw is disjoint from
it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import assert_never

from bench.core.errors import DataError, nearest
from bench.core.text import listed
from bench.data.dataset import rank
from bench.data.spelling import class_hint
from bench.data.wordnet.hierarchy import Rule, Taxonomy, taxonomy
from bench.specs.data import (
    AllClasses,
    ClassRecipe,
    HalfClasses,
    LargeClasses,
    ListedClasses,
    NearFarClasses,
    RandomClasses,
    SourceCategories,
    UnderSynset,
)

Notes = tuple[tuple[str, str | int], ...]

_ANY_DATA_SET = "all, listed, random, categories, half, at_least"
_SHOWN = 6


@dataclass(frozen=True, slots=True)
class Selection:
    """Classes in drawn order, and what is worth knowing about how they came together.

    Attributes:
        names: the data set's names of the classes; the order is that of the labels.
        notes: (name, value) pairs for the record, for example ("classes_under_root", 118).
    """

    names: tuple[str, ...]
    notes: Notes = ()


def select(
    recipe: ClassRecipe,
    classes: Sequence[str],
    *,
    wnid_keyed: bool,
    dataset: str,
    images_of: Callable[[str], int] | None = None,
) -> Selection:
    """The classes that a recipe picks from a data set.

    Args:
        recipe: one of the recipes of `bench.specs.run`; its `take` keeps the first classes.
        classes: the data set's classes, in any order, each once.
        wnid_keyed: whether `classes` are wnids, so that WordNet can say which are near.
        dataset: the data set's name, for errors.
        images_of: number of images of a class, which `at_least` needs.

    Raises:
        DataError: when the data set has too few classes for a size asked for, does not have a
            class listed, or is not keyed by wnid and the recipe needs that.

    >>> from bench.data.wordnet.hierarchy import taxonomy
    >>> ten_dogs = UnderSynset(synset="dog.n.01", n=10)
    >>> chosen = select(ten_dogs, taxonomy().classes, wnid_keyed=True, dataset="imagenet")
    >>> len(chosen.names), set(chosen.names) < set(taxonomy().under("dog.n.01"))
    (10, True)
    """
    pool = _Pool(tuple(sorted(classes)), wnid_keyed, dataset)
    if len(set(pool.classes)) != len(pool.classes):
        raise DataError(f"data set {dataset!r} lists a class twice")
    match recipe:
        case AllClasses():
            chosen = Selection(pool.classes)
        case ListedClasses():
            chosen = Selection(_listed(recipe.names, pool))
        case RandomClasses():
            drawn = _shuffled(pool.classes, f"random|{recipe.class_draw}")
            names = _first(drawn, recipe.n, f"n random classes of {dataset!r}")
            chosen = Selection(names, (("drawn_from", len(drawn)),))
        case SourceCategories():
            chosen = _categories(recipe, pool)
        case HalfClasses():
            chosen = _half(recipe, pool)
        case LargeClasses():
            chosen = _large(recipe, pool, images_of)
        case UnderSynset():
            chosen = _under(recipe, pool)
        case NearFarClasses():
            chosen = _near_far(recipe, pool)
        case _:
            assert_never(recipe)
    if recipe.take is None:
        return chosen
    what = f"take: the first classes of recipe {recipe.recipe!r}"
    notes = (("taken_from", len(chosen.names)), *chosen.notes)
    return Selection(_first(chosen.names, recipe.take, what), notes)


@dataclass(frozen=True, slots=True)
class _Pool:
    """A data set's classes, sorted."""

    classes: tuple[str, ...]
    wnid_keyed: bool
    dataset: str

    def taxonomy(self, recipe: str) -> Taxonomy:
        """WordNet, where the classes are its synsets."""
        if not self.wnid_keyed:
            raise DataError(
                f"recipe {recipe!r} asks WordNet which classes are near, and the classes of data "
                f"set {self.dataset!r} are not keyed by wnid: {listed(self.classes)}",
                hint=f"recipes that work with any data set: {_ANY_DATA_SET}",
            )
        return taxonomy()


def _shuffled(names: Iterable[str], what: str) -> tuple[str, ...]:
    """The names in a random order that `what` decides."""
    return tuple(sorted(names, key=lambda name: rank(f"classes|{what}|{name}")))


def _first(names: Sequence[str], n: int, what: str) -> tuple[str, ...]:
    if n > len(names):
        raise DataError(
            f"{what}: {n} asked for, there are {len(names)}", hint=f"ask for at most {len(names)}"
        )
    return tuple(names[:n])


def _listed(names: tuple[str, ...], pool: _Pool) -> tuple[str, ...]:
    known = set(pool.classes)
    missing = [name for name in names if name not in known]
    if missing:
        what = "class" if len(missing) == 1 else "classes"
        raise DataError(
            f"data set {pool.dataset!r} has no {what} {listed(missing)}",
            hint="; ".join(class_hint(name, pool.classes) for name in missing[:_SHOWN])
            + f"; bench classes --dataset {pool.dataset} lists all"
            if pool.wnid_keyed
            else f"nearest to {missing[0]!r}: {nearest(missing[0], pool.classes)}",
            value=missing[0],
        )
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise DataError(f"listed more than once: {listed(twice)}", hint="list every class once")
    return names


def _categories(recipe: SourceCategories, pool: _Pool) -> Selection:
    """LI §4.2: a random target, and nested sources out of all the other classes."""
    drawn = _shuffled(pool.classes, f"categories|{recipe.class_draw}")
    target = _first(drawn, recipe.target_n, f"target_n random classes of {pool.dataset!r}")
    if recipe.n is None:
        return Selection(target, (("drawn_from", len(drawn)),))
    rest = drawn[recipe.target_n :]
    what = f"n source classes of {pool.dataset!r} outside the target of {len(target)}"
    return Selection(_first(rest, recipe.n, what), (("drawn_from", len(rest)),))


def _half(recipe: HalfClasses, pool: _Pool) -> Selection:
    """Two random halves; of an odd number of classes, B gets the one more."""
    if len(pool.classes) < 2:
        raise DataError(f"data set {pool.dataset!r} has {len(pool.classes)} class: no two halves")
    drawn = _shuffled(pool.classes, f"half|{recipe.class_draw}")
    middle = len(drawn) // 2
    names = drawn[:middle] if recipe.side == "a" else drawn[middle:]
    return Selection(names, (("drawn_from", len(drawn)),))


def _large(recipe: LargeClasses, pool: _Pool, images_of: Callable[[str], int] | None) -> Selection:
    """CHU §3: classes with too few images are left out."""
    if images_of is None:
        raise DataError(f"how many images the classes of {pool.dataset!r} have is not known")
    counts = {name: images_of(name) for name in pool.classes}
    names = tuple(name for name in pool.classes if counts[name] >= recipe.images)
    if not names:
        most = max(counts.values(), default=0)
        raise DataError(
            f"no class of {pool.dataset!r} has {recipe.images} images; the most is {most}",
            hint=f"ask for images: {most} or fewer",
        )
    return Selection(names, (("chosen_from", len(pool.classes)),))


def _under(recipe: UnderSynset, pool: _Pool) -> Selection:
    wordnet = pool.taxonomy("under")
    root = wordnet.synset(recipe.synset)
    below = wordnet.under(root.wnid, recipe.rule, pool.classes)
    _check_enough(root.wnid, recipe.rule, len(below), recipe.n or 1, "n", pool)
    drawn = _shuffled(below, f"under|{recipe.class_draw}|{root.wnid}")
    return Selection(drawn[: recipe.n], (("root", root.name), ("classes_under_root", len(below))))


def _check_enough(root: str, rule: Rule, there: int, n: int, field: str, pool: _Pool) -> None:
    """Says how many classes are below the root, and which wider synset has enough."""
    if there >= n:
        return
    wordnet = taxonomy()
    above = [*reversed(wordnet.first_pointer_path(root))][1:]
    counts = ((wnid, len(wordnet.under(wnid, rule, pool.classes))) for wnid in above)
    wider = next((f"{wordnet.synset(w).name} has {k}" for w, k in counts if k >= n), None)
    name = wordnet.synset(root).name
    ways = ([f"{field}: at most {there}"] if there else []) + (
        [f"a wider synset: {wider}"] * bool(wider)
    )
    raise DataError(
        f"data set {pool.dataset!r} has {there} classes under {name} ({rule}); "
        f"{field} asks for {n}",
        hint="; or ".join(ways) or f"the data set has {len(pool.classes)} classes in all",
    )


def _near_far(recipe: NearFarClasses, pool: _Pool) -> Selection:
    """LI §4.3, for any root and any data set of wnids.

    The target is drawn from the classes under the root. Far is drawn from the branch that the root
    is not on; only when that is used up, from the root's own branch outside the root. Near is all
    that is left, nearest first: under the root, on its branch, the others. Where that is less than
    `source_n`, it is topped up from far, and the two sources share these classes (LI: 100). So
    `take` keeps the nearest of near and the farthest of far.
    """
    wordnet = pool.taxonomy("near_far")
    root = wordnet.synset(recipe.root)
    key = f"near_far|{recipe.class_draw}|{root.wnid}"
    below = wordnet.under(root.wnid, recipe.rule, pool.classes)
    _check_enough(root.wnid, recipe.rule, len(below), recipe.target_n, "target_n", pool)
    target = _shuffled(below, f"{key}|target")[: recipe.target_n]
    parts = _branches(recipe, pool, below)
    notes: Notes = (("root", root.name), ("classes_under_root", len(below)), *parts.notes)
    if recipe.side == "target":
        return Selection(target, notes)
    far, far_notes = _far(recipe.source_n, parts, key, root.name)
    if recipe.side == "far":
        return Selection(far, notes + far_notes)
    left = set(pool.classes) - set(target) - set(far)
    near, near_notes = _near(recipe.source_n, parts, left, far, key, root.name)
    return Selection(near, notes + near_notes)


@dataclass(frozen=True, slots=True)
class _Branches:
    """The classes as the root sees them: under it, beside it on its branch, and opposite."""

    root: tuple[str, ...]
    own: tuple[str, ...]
    opposite: tuple[str, ...]
    notes: Notes


def _branches(recipe: NearFarClasses, pool: _Pool, below: tuple[str, ...]) -> _Branches:
    """The root's own branch is the one that most classes under it are on; on a tie, the first."""
    names = ("natural", "man_made")
    if recipe.branches == "artifact_or_food":
        names = ("neither_artifact_nor_food", "artifact_or_food")
    sides = taxonomy().branches(recipe.branches, pool.classes)
    inside = set(below)
    there = [sum(wnid in inside for wnid in side) for side in sides]
    mine = 0 if there[0] >= there[1] else 1
    notes: Notes = (("branch", names[mine]),)
    if there[1 - mine]:
        notes += ((f"classes_under_root_but_{names[1 - mine]}", there[1 - mine]),)
    own, opposite = (
        tuple(wnid for wnid in sides[side] if wnid not in inside) for side in (mine, 1 - mine)
    )
    return _Branches(below, own, opposite, notes)


_Drawn = tuple[tuple[str, ...], Notes]


def _far(n: int, parts: _Branches, key: str, root: str) -> _Drawn:
    opposite = _shuffled(parts.opposite, f"{key}|far")[:n]
    filled = _shuffled(parts.own, f"{key}|far")[: n - len(opposite)]
    most = len(opposite) + len(filled)
    if most < n:
        raise DataError(
            f"a source far from {root} of source_n: {n} classes: there are {len(opposite)} on the "
            f"other branch and {len(filled)} more outside {root}",
            hint=f"source_n: at most {most}" if most else "choose a narrower root",
        )
    return opposite + filled, (
        ("far_from_other_branch", len(opposite)),
        ("far_from_own_branch", len(filled)),
    )


def _near(
    n: int, parts: _Branches, left: set[str], far: tuple[str, ...], key: str, root: str
) -> _Drawn:
    groups = [
        [wnid for wnid in group if wnid in left]
        for group in (parts.root, parts.own, parts.opposite)
    ]
    if not (groups[0] or groups[1]):
        raise DataError(
            f"a source near {root}: target and far source leave no class of its branch over",
            hint="make target_n or source_n smaller, or choose a wider root",
        )
    ordered = [wnid for group in groups for wnid in _shuffled(group, f"{key}|near")][:n]
    shared = _shuffled(far, f"{key}|shared")[: n - len(ordered)]
    used = set(ordered)
    counts = [len(used.intersection(group)) for group in groups]
    return (*ordered, *shared), (
        ("near_under_root", counts[0]),
        ("near_beside_root", counts[1]),
        ("near_from_other_branch", counts[2]),
        ("shared_with_far", len(shared)),
    )
