"""The published numbers: complete, typed, rendered cell by cell."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from analysis.papers import published
from bench.core.errors import DataError

SHIPPED = Path(published.__file__).with_name("published.csv")


def _raw() -> list[dict[str, str]]:
    with SHIPPED.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_shipped_facts_are_the_shared_ones(shared: Path) -> None:
    assert SHIPPED.read_bytes() == (shared / "reference" / "published.csv").read_bytes()


def test_every_cell_is_rendered_in_its_place() -> None:
    raw = _raw()
    rendered = {
        key: published.table(*key) for key in {(c.paper, c.table) for c in published.cells()}
    }
    for line in raw:
        frame = rendered[line["paper"], line["table_or_figure"]]
        cell = frame.loc[line["row"], line["column"]]
        assert cell == line["value"] or cell == pytest.approx(float(line["value"]), rel=1e-15)
    assert (
        sum(int(frame.notna().to_numpy().sum()) for frame in rendered.values()) == len(raw) == 525
    )


def test_numbers_are_numbers_and_words_are_words() -> None:
    assert published.value("soft-ft-2019", "Table 1", "VGGFace2", "# training samples") == 3.14e6
    cell = published.look_up("chu-2016", "Table 1", "MITIndoor", "Test images per class")
    assert cell.value == "*"
    with pytest.raises(DataError, match="not a number"):
        _ = cell.number
    by_text = [c for c in published.cells() if isinstance(c.value, str)]
    assert {c.unit for c in by_text} <= {
        "name",
        "count",
        "list",
        "range",
        "recommendation",
        "setting",
    }


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (("li-2018", "Table 1", "C1", "size"), "li-2019"),
        (("li-2019", "Table 9", "C1", "size"), "Table"),
        (("li-2019", "Table 2", "81", "Accuracy mean"), "80"),
        (("li-2019", "Table 2", "80", "Accuracy"), "Accuracy mean"),
    ],
)
def test_a_wrong_key_names_the_part_and_the_nearest(key: tuple[str, ...], said: str) -> None:
    with pytest.raises(DataError, match=said):
        published.look_up(*key)


def test_misprints_are_noted() -> None:
    notes = {(c.paper, c.table): c.note for c in published.cells() if "misprint" in c.note}
    assert "28.61" in notes["li-2019", "Table 1"]
    assert any("Coral > Plankton" in c.note for c in published.cells() if c.paper == "chu-2016")
