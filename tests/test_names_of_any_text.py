"""Names of classes of any text go through grids, --set, leaderboards, tables and the report.

Through folders and manifests they go in `tests/data/test_inputs.py`.
"""

from __future__ import annotations

import tempfile
from html.parser import HTMLParser
from pathlib import Path

import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.table import Table

from analysis.leaderboard.read import parse
from analysis.report.build import Report, Section, page
from bench.commands._options import console
from bench.core.files import csv_text
from bench.core.text import printable
from bench.grid.expand import load_grid

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
NAMES = st.lists(TEXT, min_size=2, max_size=4, unique=True)
ODD = ["007", "7", "no", "0x1F", "1:30", "null", "a #b", "a: b", "[/x]", "\x1b[2J", "1e3", " ", "'",
       "nan", "=1+1", "\r", "a\nb", "a,b", '"', "é", "e\u0301", ":x:", "<b>", "&amp;"]  # fmt: skip
GRID = """\
defaults: {target: {dataset: folder, root: x}, model: narrow8_32, pattern: scratch}
experiments: {a: {axes: {seed: [0]}}}
"""
ROW = {"status": "done", "dataset": "folder", "class_draw": 0, "source": "none", "model": "m",
       "pattern": "R(1-8)", "method": "plain"}  # fmt: skip


def quoted(names: list[str]) -> str:
    """A list on one line as the YAML library writes it."""
    return yaml.safe_dump(
        names, default_flow_style=True, default_style='"', width=10**6, allow_unicode=False
    ).strip()


@settings(max_examples=80, deadline=None)
@given(NAMES)
@example(ODD)
def test_grids_and_set(names: list[str]) -> None:
    listed = f"{{recipe: listed, names: {quoted(names)}}}"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "g.yaml"
        path.write_text(GRID, encoding="utf-8")
        by_set = load_grid(path, overrides=[f"target.classes={listed}"])
        path.write_text(GRID.replace("root: x", f"root: x, classes: {listed}"), encoding="utf-8")
        for grid in (load_grid(path), by_set):
            assert grid.runs[0].data.classes.names == tuple(names)  # type: ignore[union-attr]


@settings(max_examples=80, deadline=None)
@given(NAMES)
@example(ODD)
@example(["007", "7"])
@example(["1", "1.0"])
def test_leaderboards(names: list[str]) -> None:
    rows = [ROW | {"experiments": one, "target": one, "run_id": i} for i, one in enumerate(names)]
    board = parse(csv_text(rows))
    assert board["target"].tolist() == names
    assert board["experiments"].tolist() == names
    assert board["task"].nunique() == len(names)


@settings(max_examples=80, deadline=None)
@given(TEXT)
@example("\u2e80\t0")
def test_tables(name: str) -> None:
    table = Table("class", "n", box=None)
    table.add_row(name, "1")
    out = console()
    with out.capture() as shown:
        out.print(table)
        out.print(name, highlight=False)
    cell = [line.strip() for line in printable(name).expandtabs(8).split("\n")]
    for line in cell:
        assert line in shown.get()
    assert all(c.isprintable() or c == "\n" for c in shown.get())


class Texts(HTMLParser):
    """The texts of a page, references to characters resolved."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@settings(max_examples=80, deadline=None)
@given(NAMES)
@example(ODD)
def test_the_report(names: list[str]) -> None:
    def made(words: list[str]) -> Texts:
        section = Section("a", "A", tuple(words), items=tuple(words))
        return Texts(page(Report("t", "about", (), (section,), {}, png=False)))

    found = made(names)
    assert found.tags == made(["plain"] * len(names)).tags
    whole = "".join(found.texts)
    for name in names:
        assert whole.count(name) >= 2
