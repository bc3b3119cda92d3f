"""Judge the papers' claims on the families of `grids/evidence/`, and write the table of verdicts.

    python scripts/evidence.py

Reads the leaderboards `results/evidence/NAME.csv` with what was measured beside them, and writes
`results/evidence/README.md`, a row for each claim, `claims.svg`, the same as a picture, and
`claims.csv`, a row for each of its parts; the sentences of the README that rest on them; and what
following `bench recommend` gives on tasks left out, the last section and `advice.csv`.
The claims of a family are those that the first line of its grid names: what other claims its runs
could speak to counts in the family's correction for many comparisons and is not printed. Some are
judged by the parts that `results/evidence/designed.csv` names, here and by `bench findings`.
"""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from analysis.advice import left_out_tables
from analysis.comparisons.evidence import Evidence
from analysis.figures.charts import legend_below
from analysis.figures.overview import verdicts
from analysis.figures.style import canvas, to_svg
from analysis.findings.evaluate import CLAIMS, examine, on_published, table
from analysis.findings.parts import UNDECIDED, Finding, Part
from analysis.leaderboard.read import finished
from bench.commands.findings import effect_text, evidence_of
from bench.core.files import write_atomic
from bench.core.text import counted, listed, p_value

ROOT = Path(__file__).parents[1]
GRIDS = ROOT / "grids" / "evidence"
RESULTS = ROOT / "results" / "evidence"
README = ROOT / "README.md"
BEGIN, END = "<!-- written by scripts/evidence.py -->", "<!-- end -->"
CAVEATS = {
    "SFT-C1 on borrowing-again": "on average, 5 of 20 tasks are negative; it takes 1.8 times "
    "the computation",
    "SFT-C3": "it rests on one weak network of four, the other three alone give 0.57, 0.11 to 1.03",
    "GE-C3": "tested against a gain of 2 points",
    "GE-C3 on selective": "tested against a gain of 2 points; K that grows, as in the paper, which "
    "the parts of GE-C2 compare with a fixed one",
    "CHU-C4": "a data set is a point: class draws of one are no further points",
    "SFT-C5": "digits stand for persons and slants for expressions; the strictest two rates of "
    "false acceptance rest on six impostors and fewer",
    "SFT-C6": "digits and slants, as above",
    "GE-C4": "the network that is started from changes with what is borrowed",
    "LI-C1": "fewer classes are fewer steps of the source too",
    "LI-C2": "fewer classes are fewer steps of the source too",
    "LI-C2 on few-classes": "at ten epochs, which leave scratch unfinished; the ten tasks of "
    "source-size differ from these forty at p = 0.03, and all fifty give +1.2, +0.6 to +1.8",
    "SFT-C4 on source-parts": "the size is at the threshold of a point, the sign is not in doubt",
    "GE-C4 on both-sources": "near and far classes stand for scenes and objects, and the network "
    "that is started from changes with what is borrowed: without borrowing near is +3.1 over far "
    "already; animals and instruments were first two comparisons of ten, both open",
    "LI-C3 on source-size": "at ten epochs, which leave scratch unfinished; "
    "the self source is ten epochs more",
    "LI-C3 on converged": "at forty epochs, which finish scratch; the self source is forty more",
    "LI-C6 on near-far": "at schedules that leave scratch unfinished at 100 images per class",
    "LI-C6 on converged": "at schedules that finish scratch",
    "LI-C8 on depth": "by images per class below",
    "LI-C8 on first-layer": "its first half for the first layer alone, from one far network",
    "LI-C8 on strong-source": "its first half alone, of ImageNet weights at 64 pixels",
    "LI-C9 on augmentation": "expanded images are more steps too; tasks of animals alone",
    "LI-C9 on augmentation-steps": "at the same number of steps; the second half as it costs "
    "fine-tuning accuracy, on tasks of animals alone",
    "LI-C9 on augmentation-again": "at the same number of steps; to fine-tuning it gives -0.4, "
    "-1.2 to +0.4, on animals and +0.9, +0.2 to +1.6, on instruments, seen afterwards",
    "LI-C11": "classes of all tasks are pooled, so the class is the unit",
    "LI-C13": "this network was known to converge at that rate",
    "CHU-C1": "the mean of 5 and 100 images per class, which differ: see below",
    "CHU-C3": "the mean of 5 and 20 images per class, which differ: see below",
}
FEW = "with few images and a near source, freeze > tune"
MANY = "with 100 images per class or more, tune > freeze"
EARLIER = "fine-tuning converges in fewer epochs than training from scratch, from near"
SENTENCES: tuple[tuple[str, str, tuple[tuple[str, str, int | None], ...]], ...] = (
    (
        "Copy from classes near the target: over far ones {}, tuned, mean of 5, 20 and 100 images "
        "per class",
        "near-far",
        (("LI-C4", "near > far", None),),
    ),
    (
        "A far source is better than none: {} over scratch, tuned, mean of the same",
        "near-far",
        (("LI-C4", "far > scratch", None),),
    ),
    (
        "With 100 images per class tune rather than freeze: the accuracy is {} that of frozen "
        "layers from a near source, {} from a far one",
        "near-far",
        (("CHU-C2", f"{MANY}, from near", None), ("CHU-C2", f"{MANY}, from far", None)),
    ),
    (
        "With 5 images per class freezing a near network gives {} the accuracy of tuning it, with "
        "20 {}",
        "near-far",
        (("CHU-C3", f"{FEW}, from near", 5), ("CHU-C3", f"{FEW}, from near", 20)),
    ),
    (
        "With 100 images per class the first layer may stay frozen: tuning it too gives {}, from "
        "one far network",
        "first-layer",
        (("LI-C8", "tuning all layers > freezing 1", None),),
    ),
    (
        "With 100 images per class tuning the first three layers gains {} from far sources, tuning "
        "the first five {}",
        "depth",
        (
            ("LI-C8", "tuning all layers > freezing 3, from far", None),
            ("LI-C8", "tuning all layers > freezing 5, from far", None),
        ),
    ),
    (
        "With 100 images per class a far network of which all but the last layer is frozen reaches "
        "{} the accuracy of training its last three anew, with 5 {}",
        "depth",
        (
            ("CHU-C1", "last layer random ≥ last 3 random, freeze, from far", 100),
            ("CHU-C1", "last layer random ≥ last 3 random, freeze, from far", 5),
        ),
    ),
    (
        "LI's best rate, 0.001, is too small for this network at 50 images per class and 30 "
        "epochs: {} against 0.02",
        "rates",
        (("LI-C5", "0.001 > 0.02", None),),
    ),
    (
        "Fine-tuning from a near source reaches 95 % of its last training accuracy {} before "
        "training from scratch with 5 images per class (of 30), {} with 100 (of 10)",
        "near-far",
        (("LI-C12", EARLIER, 5), ("LI-C12", EARLIER, 100)),
    ),
    (
        "Expanding 5 or 20 images per class to 100, with as many more steps, gives training from "
        "scratch {}; to fine-tuning it gives {} less, so it costs accuracy there, on tasks of "
        "animals",
        "augmentation",
        (
            ("LI-C9", "augmentation helps scratch", None),
            ("LI-C9", "it helps scratch more than fine-tuning from near", None),
        ),
    ),
    (
        "Without more steps the same expansion gives training from scratch {}, on animals and "
        "instruments, mean of 5 and 20 images per class: what it gained came with the steps",
        "augmentation-again",
        (("LI-C9", "augmentation helps scratch", None),),
    ),
    (
        "Borrowed source images gain little, with 20 images per class: soft fine-tuning {}, "
        "selective joint {} over plain",
        "borrowing-again",
        (
            ("SFT-C1", "soft > fine-tuning", None),
            ("GE-C3", "gain of 2 to 10 points", None),
        ),
    ),
)
"""What a practitioner can use: a sentence, the family, and the parts whose effects it shows."""
_NAMES = re.compile(r"(?:SFT|GE|LI|CHU)-C\d+")


@dataclass(frozen=True)
class Judged:
    """A claim on the runs of one family.

    Attributes:
        size: the images per class, where it is judged on runs with so many alone.
        tasks: that the grid plans.
    """

    family: str
    finding: Finding
    size: int | None
    tasks: int

    def over(self, part: Part) -> str:
        """What the part's interval counts, and what the plan has more."""
        if not part.n:
            return "–"
        more = f" of {self.tasks} planned" if self.tasks > part.n and part.counted == "task" else ""
        return f"{counted(part.n, part.counted)}{more}"


def claims_of(grid: Path) -> list[str]:
    """The claims that a grid was written for, from its first line."""
    with grid.open() as file:
        return _NAMES.findall(file.readline())


def judged(families: str = "*") -> Iterator[Judged]:
    """Every claim on every family that was written for it and has a leaderboard.

    With several numbers of images per class each claim comes again for each of them.
    """
    for grid in sorted(GRIDS.glob(f"{families}.yaml")):
        board = RESULTS / f"{grid.stem}.csv"
        if board.is_file():
            evidence, _ = evidence_of(board, RESULTS, None)
            yield from _of_family(grid, evidence)


def _of_family(grid: Path, evidence: Evidence) -> Iterator[Judged]:
    rows = evidence.board
    targets = rows[rows["role"] != "source"]
    numbers = sorted(int(n) for n in targets["images_per_class"].dropna().unique())
    for size in (None, *(numbers if len(numbers) > 1 else ())):
        kept = pd.Series(True, rows.index) if size is None else rows["images_per_class"] == size
        some = replace(evidence, board=rows[kept | (rows["role"] == "source")])
        found = {f.claim: f for f in examine(some).findings}
        planned = targets["task"].nunique()
        for name in claims_of(grid):
            yield Judged(grid.stem, found[name], size, planned)


def verdict(one: Finding) -> str:
    """The verdict, in bold where there is one."""
    return "not decided" if one.verdict == UNDECIDED else f"**{one.verdict}**"


def _place(one: Judged) -> tuple[int, str]:
    """Where a row stands: the claims in the papers' order, their families by name."""
    return [claim.id for claim in CLAIMS].index(one.finding.claim), one.family


def rows(found: list[Judged]) -> Iterator[list[str]]:
    """The cells of the table, the claims in the papers' order."""
    printed = {f.claim: f for f in on_published()}
    for one in sorted((j for j in found if j.size is None), key=_place):
        f = one.finding
        name = f"{f.main.name}: " if len(f.parts) > 1 else ""
        same = sum(part.verdict == f.verdict for part in f.parts)
        parts = f" ({same} of {len(f.parts)} parts)" if len(f.parts) > 1 else ""
        caveat = CAVEATS.get(f"{f.claim} on {one.family}", CAVEATS.get(f.claim))
        note = f" ({caveat})" if caveat else ""
        yield [
            f"{f.claim}",
            f"{f.text}{note}",
            f"{verdict(f)}{parts}",
            f"{name}{effect_text(f.main)}",
            one.over(f.main),
            p_value(f.main.p_holm),
            printed[f.claim].verdict if printed[f.claim].verdict != UNDECIDED else "drawn only",
            f"[{one.family}]({one.family}.csv)",
        ]


def bullets(found: list[Judged]) -> Iterator[str]:
    """The sentences on these families with their numbers, as the README shows them."""
    parts = {
        (j.family, j.finding.claim, p.name, j.size): (p, j) for j in found for p in j.finding.parts
    }
    families = {one.family for one in found}
    for sentence, family, names in (one for one in SENTENCES if one[1] in families):
        shown = [parts[family, *name][0] for name in names]
        whole = parts[family, *names[0]][1]
        sizes = [name[2] for name in names]
        open_ = ["" if p.verdict != UNDECIDED else ", not decided" for p in shown]
        marks = [
            mark if n is None else ", seen afterwards" for mark, n in zip(open_, sizes, strict=True)
        ]
        effects = [f"**{effect_text(p).split(' (')[0]}**" for p in shown]
        ends = [re.search(r"\((.*)\)(.*)", effect_text(p)) for p in shown]
        texts = [
            f"{effect}{end[2] if end else ''} ({end[1] if end else 'no interval'}{mark})"
            for effect, end, mark in zip(effects, ends, marks, strict=True)
        ]
        over = whole.over(shown[0])
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
            "images_per_class": one.size,
            "part": part.name,
            "main": part.main,
            "verdict": part.verdict,
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
        done = int(finished(board).sum())
        yield (
            f"| [{name}](../../grids/evidence/{name}.yaml) | {about[1] if about else ''} | "
            f"{done} of {len(board)} | {tuned['task'].nunique()} | {hours:.1f} | "
            f"[page](../reports/evidence/{name}/index.html) |"
        )


def by_size(found: list[Judged]) -> Iterator[str]:
    """A row for each part of the claims that were judged by images per class."""
    sizes = sorted({one.size for one in found if one.size is not None})
    cells: dict[tuple[str, str, str], dict[int, str]] = {}
    for one in sorted((j for j in found if j.size is not None), key=_place):
        for part in one.finding.parts:
            if part.effect is not None and one.size is not None:
                key = (one.finding.claim, part.name, one.family)
                cells.setdefault(key, {})[one.size] = effect_text(part)
    yield f"| claim | part | {' | '.join(map(str, sizes))} | family |"
    yield f"| --- | --- |{' --- |' * len(sizes)} --- |"
    for (claim, name, family), effects in cells.items():
        if len(effects) > 1:
            row = " | ".join(effects.get(size, "–") for size in sizes)
            yield f"| {claim} | {name} | {row} | {family} |"


def drawn(found: list[Judged]) -> bytes:
    """The verdicts as a picture, in SVG: in print and here."""
    ordered = sorted((one for one in found if one.size is None), key=_place)
    lines = table([one.finding for one in ordered]).drop(columns="here")
    twice = Counter(one.finding.claim for one in ordered)
    lines["text"] = [
        f"{one.family}: {one.finding.text}" if twice[one.finding.claim] > 1 else one.finding.text
        for one in ordered
    ]
    figure, (ax,) = canvas(height=0.9 + 0.23 * len(lines))
    verdicts(lines, ax)
    legend_below(ax)
    return to_svg(figure)


_INTRODUCTION = """\
# Which claims of the four papers hold on real photographs

`python scripts/evidence.py` makes this page from the leaderboards in this folder. Designs, tasks,
the smallest effects of interest and the rules of the verdicts were fixed before the runs, in
[docs/experiments.md](../../docs/experiments.md); a family is repeated by

    bench grid grids/evidence/NAME.yaml --data-root FOLDER

![The verdict on each claim: in print and here](claims.svg)
"""
_READING = """\
An effect is positive in the direction that the claim predicts. Its 95 % interval is Student's t
over tasks: it speaks of another draw of classes from the same ones, with the same images and one
seed, so initial weights of what is not copied are the same in all tasks. p is adjusted (Holm) for
everything that these runs allow to be tested; intervals are not. *Not decided* is a result too:
what lies outside the interval is excluded. Sizes of the target's training set are averaged, as the
claims do not name one, and stand apart below. Of a claim with several parts the table shows the one
that decides, and [claims.csv](claims.csv) has all. Some claims are judged by those parts alone that
their design is about, which [designed.csv](designed.csv) names; `bench findings
results/evidence/NAME.csv` reads it too and gives these verdicts.

| claim | what it says | verdict | effect, 95 % interval | over | p (Holm) | in the paper | family |
| --- | --- | --- | --- | --- | ---: | --- | --- |
"""
_BY_SIZE = """
## By images per class

Effects as above, each number of images per class by itself. They were looked at afterwards, and no
verdict is given on them.

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
        whole = (j for j in found if j.family == path.stem and j.size is None)
        before = {j.finding.claim: j.finding for j in whole}
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
    whole = [one for one in found if one.size is None]
    decided = Counter(one.finding.verdict for one in whole)
    without = sorted({c.id for c in CLAIMS} - {one.finding.claim for one in found})
    said = ", ".join(f"{n} {name}" for name, n in decided.most_common())
    counts = f"{counted(len(whole), 'row')}: {said}."
    if without:
        counts += f" Without runs here: {listed(without, len(without))}."
    cells = "\n".join(f"| {' | '.join(row)} |" for row in rows(found))
    parts = [_INTRODUCTION, textwrap.fill(counts, 100) + "\n", _READING + cells]
    parts += [_BY_SIZE + "\n".join(by_size(found))]
    text = "\n".join(parts) + "\n" + _FAMILIES + "\n".join(families(found)) + "\n"
    return text + _REPEATED + "\n".join(repeated(found)) + "\n"


def main() -> None:
    """Write the page and the table of parts."""
    found, advice = list(judged()), left_out_tables.of_folder(RESULTS)
    write_atomic(RESULTS / "advice.csv", advice.to_csv(index=False))
    write_atomic(RESULTS / "README.md", page(found) + left_out_tables.section(advice))
    write_atomic(RESULTS / "claims.svg", drawn(found))
    above, rest = README.read_text().split(BEGIN)
    below = rest.split(END)[1]
    write_atomic(README, "\n".join([f"{above}{BEGIN}", *bullets(found), f"{END}{below}"]))
    write_atomic(RESULTS / "claims.csv", parts_table(found).to_csv(index=False))


if __name__ == "__main__":
    main()
