"""The class recipes in a few words each, for help texts and errors; costs nothing to import.

The recipes themselves are in `bench.specs.data`; a test compares the two.
"""

from __future__ import annotations

from typing import NamedTuple


class RecipeHelp(NamedTuple):
    """What a recipe does, its fields with those that may be left out in brackets, an example."""

    about: str
    fields: str
    example: str

    @property
    def required(self) -> list[str]:
        """The fields that it must have."""
        return [field for field in self.fields.split(", ") if not field.startswith("[")]

    @property
    def optional(self) -> list[str]:
        """The fields that it may have."""
        return [field.strip("[]") for field in self.fields.split(", ") if field.startswith("[")]


RECIPES = {
    "all": RecipeHelp("every class of the data set", "[take]", "{recipe: all}"),
    "listed": RecipeHelp(
        "the classes named", "names, [take]", "{recipe: listed, names: [cat, dog]}"
    ),
    "random": RecipeHelp("n random classes", "n, [class_draw], [take]", "{recipe: random, n: 10}"),
    "under": RecipeHelp(
        "all classes below a WordNet synset, or n random ones",
        "synset, [n], [rule], [class_draw], [take]",
        "{recipe: under, synset: dog.n.01, n: 10}",
    ),
    "near_far": RecipeHelp(
        "a target below a synset, a source near it, a source far from it",
        "root, side, [target_n], [source_n], [rule], [branches], [class_draw], [take]",
        "{recipe: near_far, root: dog.n.01, side: target, target_n: 10, source_n: 30}",
    ),
    "categories": RecipeHelp(
        "a random target, and n of the other classes as its source",
        "side, [target_n], [n], [class_draw], [take]",
        "{recipe: categories, side: source, target_n: 10, n: 40}",
    ),
    "half": RecipeHelp(
        "one of two random halves, a or b",
        "side, [class_draw], [take]",
        "{recipe: half, side: a}",
    ),
    "at_least": RecipeHelp(
        "classes with at least so many images", "images, [take]", "{recipe: at_least, images: 100}"
    ),
}
"""By name, the simplest first."""


def recipe_hint(name: str) -> str:
    """The fields of a recipe and an example, on one line.

    >>> recipe_hint("random")
    'recipe random has n, and may have class_draw, take; for example {recipe: random, n: 10}'
    """
    known = RECIPES[name]
    has = f"has {', '.join(known.required)}, and may have" if known.required else "may have"
    return f"recipe {name} {has} {', '.join(known.optional)}; for example {known.example}"


EPILOG = "\n\n".join(
    [
        "Recipes, their fields, and [those that may be left out]:",
        *(f"{name}: {known.about}. Fields: {known.fields}" for name, known in RECIPES.items()),
        "take keeps the first classes; class_draw is the seed of the random choice; side is "
        "target, near or far (near_far), target or source (categories), a or b (half); rule is "
        "how a class is below a synset: first_pointer, closure or longest_path.",
        f"Example: bench classes '{RECIPES['near_far'].example}'",
    ]
)
"""What `bench classes --help` ends with."""
