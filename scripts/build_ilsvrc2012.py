"""Rebuilds bench/data/wordnet/ilsvrc2012.csv and synsets.csv from WordNet 3.0's own files.

    apt-get install wordnet-base
    python scripts/build_ilsvrc2012.py --wordnet /usr/share/wordnet

ilsvrc2012.csv lists the 1000 classes in the usual index order; the order is not derivable from
WordNet, so it is read from the shipped table, or from any CSV file with a column `wnid` that
`--classes` names. synsets.csv holds these classes and every synset above them.
"""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.data.wordnet.files import NounFiles, Synset, files_in

DATA = Path(__file__).resolve().parent.parent / "bench" / "data" / "wordnet"


def closure(files: NounFiles, wnids: Iterable[str]) -> dict[str, Synset]:
    """The synsets of `wnids` and everything above them, by wnid, sorted."""
    found: dict[str, Synset] = {}
    waiting = list(wnids)
    while waiting:
        wnid = waiting.pop()
        if wnid in found:
            continue
        synset = files.by_wnid(wnid)
        if synset is None:
            raise SystemExit(f"{wnid} is not a noun of WordNet 3.0")
        found[wnid] = synset
        waiting.extend(synset.hypernyms)
    return dict(sorted(found.items()))


def licence(folder: Path) -> list[str]:
    """WordNet's licence, which has to go with every copy: the head of data.noun, unnumbered."""
    with (folder / "data.noun").open(encoding="utf-8") as lines:
        head = [line for _, line in zip(range(60), lines, strict=False) if line.startswith("  ")]
    return [line.strip().partition(" ")[2].strip() for line in head]


def write(
    path: Path, comment: Sequence[str], head: Sequence[str], rows: Iterable[Sequence[object]]
) -> None:
    """Writes a CSV file that begins with comment lines, whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8", newline="") as file:
        file.writelines(f"# {line}".rstrip() + "\n" for line in comment)
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(head)
        writer.writerows(rows)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def build(folder: Path, classes_csv: Path, out: Path) -> None:
    """Writes both tables to the folder `out`."""
    files = files_in(folder)
    with classes_csv.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        wnids = [row["wnid"] for row in rows]
    if len(wnids) != 1000 or len(set(wnids)) != 1000:
        raise SystemExit(f"{classes_csv} lists {len(set(wnids))} different classes, not 1000")
    synsets = closure(files, wnids)
    write(
        out / "ilsvrc2012.csv",
        ["The classes of ILSVRC2012 in index order; made by scripts/build_ilsvrc2012.py."],
        ["index", "wnid", "name"],
        ((index, wnid, synsets[wnid].name) for index, wnid in enumerate(wnids)),
    )
    write(
        out / "synsets.csv",
        [
            "The synsets of ilsvrc2012.csv and all above them; made by scripts/build_ilsvrc2012.py",
            "from WordNet 3.0. Hypernyms stand in the order of data.noun. WordNet's licence:",
            *licence(folder),
        ],
        ["wnid", "name", "lemmas", "hypernyms"],
        ((s.wnid, s.name, " ".join(s.lemmas), " ".join(s.hypernyms)) for s in synsets.values()),
    )
    print(f"{len(wnids)} classes, {len(synsets)} synsets")


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="Rebuild the shipped WordNet tables.")
    parser.add_argument("--wordnet", type=Path, default=Path("/usr/share/wordnet"))
    parser.add_argument("--classes", type=Path, default=DATA / "ilsvrc2012.csv")
    parser.add_argument("--out", type=Path, default=DATA)
    options = parser.parse_args()
    build(options.wordnet, options.classes, options.out)


if __name__ == "__main__":
    main()
