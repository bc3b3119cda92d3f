"""What a record says beyond its columns, in words; and text for terminals of every encoding."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.commands._options import spelt
from bench.commands.record_details import omissions, omitted_by_condition, record_lines
from bench.core.text import counted
from bench.specs.data import DataSpec
from bench.specs.run import ModelSpec, RunSpec, Seeds

LEFT_OUT = {
    "capped_classes": ["emu: 11 of 20 train", "owl: 3 of 20 train"],
    "dropped_classes": ["kea: 0 of at least 1 test"],
    "skipped_corrupt": 1,
    "skipped_corrupt_images": ["cat/bad.png"],
    "dropped_duplicates": 2,
    "dropped_duplicates_with_other_label": 1,
    "dropped_equal_to_test": 3,
    "left_out_group_in_other_split": 4,
}


def run(seed: int = 0, k: int | None = 20) -> RunSpec:
    return RunSpec(
        data=DataSpec(dataset="digits", images_per_class=k),
        model=ModelSpec(name="narrow8_32"),
        pattern="R(1-8)",
        seeds=Seeds(draw=seed, init=seed, order=seed),
    )


def test_everything_that_was_left_out_is_said_in_words() -> None:
    said = "; ".join(omissions(LEFT_OUT))
    for words in (
        "2 classes have fewer images than asked for (emu: 11 of 20 train, owl: 3 of 20 train)",
        "1 class was left out for too few images (kea",
        "1 corrupt image was skipped (cat/bad.png)",
        "2 duplicate images were dropped, 1 with another label",
        "3 images were dropped, equal to a test image",
        "4 images were left out, their group is in another split",
    ):
        assert words in said
    assert omissions({"classes_under_root": 118, "root": "dog.n.01"}) == []


def test_a_line_per_selection_over_its_draws() -> None:
    finished = [
        (run(seed, k), {"notes": {"data": {"capped_classes": [f"emu: {n} of {k} train"]}}})
        for seed, k, n in ((0, 20, 11), (1, 20, 11), (0, 30, 11), (1, 30, 12))
    ]
    lines = omitted_by_condition([*finished, (run(0, 5), {"notes": {"data": {}}}), (run(), {})])
    assert len(lines) == 2
    assert lines[0].count("emu") == 1
    assert lines[0].startswith("digits all, 20 images per class: 1 class has fewer")
    assert "emu: 11 of 30 train" in lines[1]
    assert "emu: 12 of 30 train" in lines[1]


def test_what_the_files_of_a_data_set_hold_beside_the_images_has_one_line_for_all_selections() -> (
    None
):
    notes = {
        "files_passed_over": "3 .xml, 1 without a suffix",
        "merged_names": ["classes 'cat' (b'cat') and 'cat ' (b'cat ')"],
        "listed_images_missing": "2 of 20 listed images are missing: a.png, b.png",
    }
    finished = [(run(seed, k), {"notes": {"data": notes}}) for seed in (0, 1) for k in (5, 10)]
    assert omitted_by_condition(finished) == [
        "digits: 2 of 20 listed images are missing: a.png, b.png; files were passed over (3 .xml, "
        "1 without a suffix); 1 name spelt in several ways got one spelling (classes 'cat' "
        "(b'cat') and 'cat ' (b'cat '))"
    ]
    shown = dict(record_lines({"notes": {"data": notes}}))
    assert list(shown) == ["files passed over", "names that got one spelling", "missing"]


def test_what_was_borrowed_counts_too_and_many_lines_are_counted() -> None:
    borrowed = {"borrowed": [{"notes": {"skipped_corrupt": 1}}]}
    (line,) = omitted_by_condition([(run(), borrowed)])
    assert line.startswith("borrowed for digits all")
    lines = omitted_by_condition([(run(k=k), borrowed) for k in range(1, 6)], most=2)
    assert len(lines) == 3
    assert "3 more" in lines[-1]


def test_every_note_of_a_record_has_a_line() -> None:
    record = {
        "row": {"lr": 0.1},
        "run_id": "x",
        "classes": ["cat", "dog"],
        "files": {"model.safetensors": "00"},
        "notes": {
            "data": LEFT_OUT,
            "training": ["resumed in epoch 2 after step 7"],
            "method": {"selection": {"rounds": [{"k0": 4}, {"k0": 5}], "empty": {}}},
        },
        "borrowed": [{"classes": ["a", "b"], "images": 12}],
    }
    text = "\n".join(f"{name}: {value}" for name, value in record_lines(record))
    for part in (
        "classes: 2: cat, dog",
        "fewer images than asked for: emu: 11 of 20 train",
        "corrupt images skipped: 1",
        "training: resumed in epoch 2",
        "method selection rounds 1 k0: 4",
        "method selection rounds 2 k0: 5",
        "borrowed 1 images: 12",
        "files: model.safetensors",
    ):
        assert part in text


LEAVES = st.none() | st.booleans() | st.integers(-9, 9) | st.text("abc", max_size=3)


def leaves(value: Any) -> list[str]:
    """All values of a nested one, in the slow and literal way."""
    if isinstance(value, dict):
        return [leaf for part in value.values() for leaf in leaves(part)]
    if isinstance(value, list):
        return [leaf for part in value for leaf in leaves(part)]
    return [] if value in (None, "") else [str(value)]


@given(
    st.dictionaries(
        st.text("xyz", min_size=1, max_size=3),
        st.recursive(
            LEAVES,
            lambda s: st.lists(s, max_size=4) | st.dictionaries(st.text("pq", max_size=2), s),
        ),
        max_size=4,
    )
)
def test_no_value_is_lost(note: dict[str, Any]) -> None:
    text = " ".join(value for _, value in record_lines({"notes": {"method": note}}))
    for leaf in leaves(note):
        assert leaf in text


@pytest.mark.parametrize(("n", "expected"), [(0, "0 runs"), (1, "1 run"), (2, "2 runs")])
def test_plurals(n: int, expected: str) -> None:
    assert counted(n, "run") == expected


@given(st.text())
def test_every_text_can_be_spelt(text: str) -> None:
    assert spelt(text).isascii()
    assert spelt("plain 1.5 %") == "plain 1.5 %"
    stream = io.TextIOWrapper(io.BytesIO(), encoding="latin-1", errors="strict")
    stream.write(spelt(text))
