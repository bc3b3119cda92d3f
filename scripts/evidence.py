"""Judge the papers' claims on the families of `grids/evidence/`, and write the table of verdicts.

    python scripts/evidence.py

Reads the leaderboards `results/evidence/NAME.csv` with what was measured beside them, and writes
`results/evidence/README.md`, a row for each claim, `claims.svg`, the same as a picture, and
`claims.csv`, a row for each of its parts; and the sentences of the README that rest on them.
The claims of a family are those that the first line of its grid names: what other claims its runs
could speak to counts in the family's correction for many comparisons and is not printed.
"""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.figures.style import to_svg
from analysis.findings.evaluate import CLAIMS, examine, on_published, table
from analysis.findings.parts import UNDECIDED, Finding, Part
from analysis.leaderboard.read import finished
from analysis.report.feature_figures import claims
from bench.commands.findings import effect_text, evidence_of
from bench.core.files import write_atomic
from bench.core.text import counted, listed, p_value

ROOT = Path(__file__).parents[1]
GRIDS = ROOT / "grids" / "evidence"
RESULTS = ROOT / "results" / "evidence"
README = ROOT / "README.md"
BEGIN, END = "<!-- written by scripts/evidence.py -->", "<!-- end -->"
CAVEATS = {
    "SFT-C5": "digits stand for persons and their slants for expressions",
    "SFT-C6": "digits and slants, as above",
    "LI-C11": "classes of all tasks are pooled, so the class is the unit",
}
FEW = "with few images and a near source, freeze > tune"
MANY = "with 100 images per class or more, tune > freeze"
SENTENCES: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = (
    (
        "Copy from classes near the target: over far ones {}, tuned, mean of 5, 20 "
        "and 100 images per class",
        "near-far",
        (("LI-C4", "near > far"),),
    ),
    (
        "A far source is better than none: {} over scratch, tuned, mean of the same",
        "near-far",
        (("LI-C4", "far > scratch"),),
    ),
    (
        "With 100 images per class tune all layers: the accuracy is {} that of frozen layers "
        "from a near source, {} from a far one",
        "near-far",
        (("CHU-C2", f"{MANY}, from near"), ("CHU-C2", f"{MANY}, from far")),
    ),
    (
        "With 5 and 20 (their mean), freezing gives {} the accuracy of tuning from a near "
        "source, {} from a far one",
        "near-far",
        (("CHU-C3", f"{FEW}, from near"), ("CHU-C3", f"{FEW}, from far")),
    ),
    (
        "Freeze the first layer or not: with 100 images per class tuning it gains {} "
        "from far sources; tuning the first five gains {}",
        "depth",
        (
            ("LI-C8", "tuning all layers > freezing 1, from far"),
            ("LI-C8", "tuning all layers > freezing 5, from far"),
        ),
    ),
    (
        "Of a far network do not freeze all but the last layer: that gives {} the accuracy of "
        "training the last three anew, mean of 5 and 100 images per class",
        "depth",
        (("CHU-C1", "last layer random ≥ last 3 random, freeze, from far"),),
    ),
    (
        "Try rates first: with 50 images per class LI's best rate, 0.001, gives {} against 0.02",
        "rates",
        (("LI-C5", "0.001 > 0.02"),),
    ),
    (
        "Fine-tuning converges {} earlier than training from scratch (95 % of the last epoch's "
        "training accuracy), from a near source, mean of 5, 20 and 100 images per class",
        "near-far",
        (
            (
                "LI-C12",
                "fine-tuning converges in fewer epochs than training from scratch, from near",
            ),
        ),
    ),
    (
        "Expanding 5 or 20 images per class to 100 helps training from scratch: {}; it has {} "
        "less to give to fine-tuning",
        "augmentation",
        (
            ("LI-C9", "augmentation helps scratch"),
            ("LI-C9", "it helps scratch more than fine-tuning from near"),
        ),
    ),
    (
        "Borrowed source images gain little, with 20 images per class: soft fine-tuning {}, "
        "selective joint {} over plain",
        "borrowing",
        (("SFT-C1", "soft > fine-tuning"), ("GE-C3", "gain of 2 to 10 points, from near")),
    ),
)
"""What a practitioner can use: a sentence, the family, and the parts whose effects it shows."""
_NAMES = re.compile(r"(?:SFT|GE|LI|CHU)-C\d+")


@dataclass(frozen=True)
class Judged:
    """A claim on the runs of one family."""

    family: str
    finding: Finding


def claims_of(grid: Path) -> list[str]:
    """The claims that a grid was written for, from its first line."""
    with grid.open() as file:
        return _NAMES.findall(file.readline())


def judged(families: str = "*") -> Iterator[Judged]:
    """Every claim on every family that was written for it and has a leaderboard."""
    for grid in sorted(GRIDS.glob(f"{families}.yaml")):
        board = RESULTS / f"{grid.stem}.csv"
        if board.is_file():
            evidence, _ = evidence_of(board, RESULTS, None)
            found = {f.claim: f for f in examine(evidence).findings}
            yield from (Judged(grid.stem, found[name]) for name in claims_of(grid))


def verdict(part: Part | Finding) -> str:
    """The verdict, in bold where there is one, with what it speaks of."""
    main = part.main if isinstance(part, Finding) else part
    if part.verdict != UNDECIDED:
        scope = f" {main.scope}" if main.scope else ""
        return f"**{part.verdict}**{scope}"
    return f"on these tasks {part.here}" if part.here != UNDECIDED else "not decided"


def _place(one: Judged) -> tuple[int, str]:
    """Where a row stands: the claims in the papers' order, their families by name."""
    return [claim.id for claim in CLAIMS].index(one.finding.claim), one.family


def rows(found: list[Judged]) -> Iterator[list[str]]:
    """The cells of the table, the claims in the papers' order."""
    printed = {f.claim: f for f in on_published()}
    for one in sorted(found, key=_place):
        f = one.finding
        name = f"{f.main.name}: " if len(f.parts) > 1 else ""
        same = sum(part.verdict == f.verdict for part in f.parts)
        parts = f" ({same} of {len(f.parts)} parts)" if len(f.parts) > 1 else ""
        note = f" ({CAVEATS[f.claim]})" if f.claim in CAVEATS else ""
        yield [
            f"{f.claim}",
            f"{f.text}{note}",
            f"{verdict(f)}{parts}",
            f"{name}{effect_text(f.main)}",
            counted(f.main.n, f.main.counted) if f.main.n else "–",
            p_value(f.main.p_holm),
            printed[f.claim].verdict if printed[f.claim].verdict != UNDECIDED else "drawn only",
            f"[{one.family}]({one.family}.csv)",
        ]


def bullets(found: list[Judged]) -> Iterator[str]:
    """The sentences on these families with their numbers, as the README shows them."""
    parts = {(j.family, j.finding.claim, p.name): p for j in found for p in j.finding.parts}
    families = {one.family for one in found}
    for sentence, family, names in (one for one in SENTENCES if one[1] in families):
        shown = [parts[family, *name] for name in names]
        marks = ["" if p.verdict != UNDECIDED else ", not decided" for p in shown]
        effects = [f"**{effect_text(p).split(' (')[0]}**" for p in shown]
        ends = [re.search(r"\((.*)\)(.*)", effect_text(p)) for p in shown]
        texts = [
            f"{effect}{end[2] if end else ''} ({end[1] if end else 'no interval'}{mark})"
            for effect, end, mark in zip(effects, ends, marks, strict=True)
        ]
        over = counted(shown[0].n, shown[0].counted)
        line = f"{sentence.format(*texts)}; {over}, [{family}](results/evidence/{family}.csv)."
        yield textwrap.fill(
            line, 118, initial_indent="* ", subsequent_indent="  ", break_on_hyphens=False
        )


def parts_table(found: list[Judged]) -> pd.DataFrame:
    """A row for each part of each claim."""
    return pd.DataFrame(
        {
            "family": one.family,
            "claim": one.finding.claim,
            "part": part.name,
            "main": part.main,
            "verdict": part.verdict,
            "here": part.here,
            "effect": part.effect,
            "low": part.low,
            "high": part.high,
            "unit": part.unit,
            "n": part.n,
            "counted": part.counted,
            "p_holm": part.p_holm,
            "detail": part.detail,
            "needed": part.needed,
        }
        for one in found
        for part in one.finding.parts
    )


def families(found: list[Judged]) -> Iterator[str]:
    """What each family is, with its runs and tasks."""
    for name in sorted({one.family for one in found}):
        evidence, _ = evidence_of(RESULTS / f"{name}.csv", RESULTS, None)
        board = evidence.board
        tuned = board[finished(board) & (board["role"] != "source")]
        about = re.search(r"^about: (.*)$", (GRIDS / f"{name}.yaml").read_text(), re.M)
        hours = board["seconds"].sum() / 3600
        yield (
            f"| [{name}](../../grids/evidence/{name}.yaml) | {about[1] if about else ''} | "
            f"{len(board)} | {tuned['task'].nunique()} | {hours:.1f} | "
            f"[page](../reports/evidence/{name}/index.html) |"
        )


def drawn(found: list[Judged]) -> bytes:
    """The verdicts as a picture, in SVG: in print, here, and on these tasks alone."""
    ordered = sorted(found, key=_place)
    lines = table([one.finding for one in ordered])
    twice = Counter(one.finding.claim for one in ordered)
    lines["text"] = [
        f"{one.family}: {one.finding.text}" if twice[one.finding.claim] > 1 else one.finding.text
        for one in ordered
    ]
    figure, _ = claims(lines)
    return to_svg(figure)


_INTRODUCTION = """\
# Which claims of the four papers hold on real photographs

`python scripts/evidence.py` makes this page from the leaderboards in this folder. Designs, tasks,
the smallest effects of interest and the rules of the verdicts were fixed before the runs, in
[docs/experiments.md](../../docs/experiments.md); a family is repeated by

    bench grid grids/evidence/NAME.yaml --data-root FOLDER

![The verdict on each claim: in print, here, and on these tasks alone](claims.svg)
"""
_READING = """\
An effect is positive in the direction that the claim predicts. Its 95 % interval is over tasks of
this kind, and p is adjusted (Holm) for everything that the family's leaderboard allows to be
tested. A verdict in bold speaks of further tasks of the same kind, *on these tasks* of the tasks
as drawn alone. *Not decided* is a result too: what lies outside the interval is excluded. Of a
claim with several parts the table shows the one that decides, and [claims.csv](claims.csv) all.

| claim | what it says | verdict | effect, 95 % interval | over | p (Holm) | in the paper | family |
| --- | --- | --- | --- | --- | ---: | --- | --- |
"""
_FAMILIES = """
## Families

Runs that several families share, such as their sources, count in each.

| grid | what it varies | runs | tasks | core-hours of training | report |
| --- | --- | ---: | ---: | ---: | --- |
"""
_REPEATED = """
## Repeated with another seed

The same tasks and sources with `--set seed=1`: other initialisations of what is not copied, and
another order of the images. *Inside* says whether the new effect lies in the committed interval.

| family | claim | part | committed | again | inside |
| --- | --- | --- | --- | --- | --- |
"""


def repeated(found: list[Judged]) -> Iterator[str]:
    """A row for each part of the families in `again/`: committed, and with another seed."""
    for path in sorted((RESULTS / "again").glob("*.csv")):
        before = {j.finding.claim: j.finding for j in found if j.family == path.stem}
        evidence, _ = evidence_of(path, RESULTS, None)
        for finding in examine(evidence).findings:
            if finding.claim not in before:
                continue
            parts = {part.name: part for part in before[finding.claim].parts}
            for again in finding.parts:
                first = parts[again.name]
                if first.effect is None or again.effect is None:
                    continue
                inside = first.low is not None and first.low <= again.effect <= (first.high or 0.0)
                yield (
                    f"| {path.stem} | {finding.claim} | {again.name} | {effect_text(first)} | "
                    f"{effect_text(again)} | {'yes' if inside else 'no'} |"
                )


def page(found: list[Judged]) -> str:
    """The text of `results/evidence/README.md`."""
    decided = Counter(one.finding.verdict for one in found)
    without = sorted({c.id for c in CLAIMS} - {one.finding.claim for one in found})
    said = ", ".join(f"{n} {name}" for name, n in decided.most_common())
    counts = f"{counted(len(found), 'verdict', 'verdicts')}: {said}."
    if without:
        counts += f" Without runs here: {listed(without, len(without))}."
    cells = "\n".join(f"| {' | '.join(row)} |" for row in rows(found))
    parts = [_INTRODUCTION, textwrap.fill(counts, 100) + "\n", _READING + cells]
    text = "\n".join(parts) + "\n" + _FAMILIES + "\n".join(families(found)) + "\n"
    return text + _REPEATED + "\n".join(repeated(found)) + "\n"


def main() -> None:
    """Write the page and the table of parts."""
    found = list(judged())
    write_atomic(RESULTS / "README.md", page(found))
    write_atomic(RESULTS / "claims.svg", drawn(found))
    above, rest = README.read_text().split(BEGIN)
    below = rest.split(END)[1]
    write_atomic(README, "\n".join([f"{above}{BEGIN}", *bullets(found), f"{END}{below}"]))
    write_atomic(RESULTS / "claims.csv", parts_table(found).to_csv(index=False))


if __name__ == "__main__":
    main()
