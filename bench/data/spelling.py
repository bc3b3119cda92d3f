"""What somebody may have meant by a class that a data set of wnids does not have."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from bench.core.errors import DataError
from bench.data.wordnet.hierarchy import taxonomy


def class_hint(asked: str, classes: Sequence[str]) -> str:
    """What to write instead of a name that is no class.

    Args:
        asked: a wnid, a synset's name, or a word.
        classes: the data set's wnids.

    >>> class_hint("tench", taxonomy().classes)
    'tench: write n01440764'
    >>> class_hint("dog.n.01", taxonomy().classes)
    'dog.n.01 is above 118 classes: {recipe: under, synset: dog.n.01}'
    """
    words = taxonomy()
    names = {words.synsets[wnid].name: wnid for wnid in classes if wnid in words.synsets}
    word = asked.lower().replace(" ", "_")
    same = [wnid for name, wnid in names.items() if word in (name, name.partition(".")[0])]
    if same:
        return f"{asked}: write {' or '.join(sorted(same))}"
    try:
        synset = words.synset(asked)
    except DataError:
        synset = None
    if synset is not None:
        below = len(words.under(synset.wnid, "first_pointer", classes))
        known = synset.name if asked == synset.name else f"{asked} ({synset.name})"
        if below:
            return f"{known} is above {below} classes: {{recipe: under, synset: {synset.name}}}"
        return f"{known} is a synset, but no class here"
    if re.fullmatch(r"n\d{8}", asked):
        slips = [wnid for wnid in classes if sum(map(str.__ne__, asked, wnid)) == 1]
        close = [f"{wnid} ({words.name(wnid)})" for wnid in sorted(slips)[:3]]
        return f"{asked} is unknown" + (f"; one digit away: {', '.join(close)}" if close else "")
    lemmas = {name.partition(".")[0]: wnid for name, wnid in names.items()}
    similar = difflib.get_close_matches(word, lemmas, n=4, cutoff=0.6)
    near = ", ".join(f"{lemmas[lemma]} ({lemma})" for lemma in similar)
    return f"nearest to {asked}: {near}" if near else f"nothing is spelled like {asked}"
