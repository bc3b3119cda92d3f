"""What plain values of a grid mean, and what is shown of a file that is no grid."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.core.errors import GridError
from bench.grid.expand import load_grid
from bench.grid.overrides import read_override
from bench.grid.yaml import MAX_DEPTH, parse_yaml, read_yaml, scalar

HEAD = """\
defaults:
  target: {dataset: digits}
  model: narrow8_32
  pattern: scratch
experiments:
"""


def error_of(tmp_path: Path, text: str | bytes) -> str:
    path = tmp_path / "grid.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(GridError) as caught:
        load_grid(path)
    return str(caught.value).replace(f"{tmp_path}/", "")


TEXTS = ["1:30", "2:00:00", "010", "007", "0x1F", "0b11", "0o17", "1_000", "+1", "no", "yes", "On",
         "off", "y", "2024-01-01", ".nan", ".inf", "1e", "=", "12e3x"]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_what_yaml_1_1_alone_converts_stays_text(text: str) -> None:
    assert parse_yaml(f"[{text}]", "a.yaml").value == [text]
    assert scalar(text) == text


@pytest.mark.parametrize(
    ("text", "value"),
    [("10", 10), ("-3", -3), ("0", 0), ("1e-4", 1e-4), ("1.50", 1.5), (".5", 0.5), ("1E3", 1000.0),
     ("true", True), ("False", False), ("null", None), ("~", None), ("'010'", "010")],
)  # fmt: skip
def test_numbers_truth_values_and_null_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    for found in (parse_yaml(f"[{text}]", "a.yaml").value[0], scalar(text)):
        assert found == value
        assert isinstance(found, type(value))


CELLS = {
    "train.epochs: 1:30": "train.epochs is '1:30': expected a whole number (experiment e)\n"
    "  write a whole number in decimal digits, such as 10",
    "train.epochs: 010": "train.epochs is '010': expected a whole number (experiment e)\n"
    "  write 10, without zeros in front",
    "train.epochs: 1_000": "train.epochs is '1_000': expected a whole number (experiment e)\n"
    "  write a whole number in decimal digits, such as 10",
    "target.classes: {recipe: listed, names: [a, 7]}": "target.classes.names.1 is 7: expected text "
    "(experiment e)\n  write it in quotes: '7'",
    "target.classes: {recipe: listed, names: [1e3, a]}": "target.classes.names.0 is 1e3: expected "
    "text (experiment e)\n  write it in quotes: '1e3'",
    "target.classes: {recipe: listed, names: [a, 1.50]}": "target.classes.names.1 is 1.50: "
    "expected text (experiment e)\n  write it in quotes: '1.50'",
    "target.classes: {recipe: listed, names: [true, a]}": "target.classes.names.0 is true: "
    "expected text (experiment e)\n  put it in quotes",
}


@pytest.mark.parametrize("cell", CELLS)
def test_an_error_quotes_what_the_user_wrote(cell: str, tmp_path: Path) -> None:
    text = f"{HEAD}  e: {{set: {{{cell}}}, axes: {{seed: [0]}}}}\n"
    assert error_of(tmp_path, text) == f"grid.yaml:6: {CELLS[cell]}"


@pytest.mark.parametrize("names", [("007", "7a"), ("no", "yes"), ("0x1F", "a"), ("1:30", "010")])
def test_classes_that_look_like_numbers_are_taken_as_written(
    names: tuple[str, str], tmp_path: Path
) -> None:
    (tmp_path / "g.yaml").write_text(
        f"{HEAD}  e: {{set: {{target: {{dataset: folder, root: x, classes: "
        f"{{recipe: listed, names: [{', '.join(names)}]}}}}}}, axes: {{seed: [0]}}}}\n"
    )
    (run,) = load_grid(tmp_path / "g.yaml").runs
    assert run.data.classes.names == names  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "value",
    ["/data/birds #2", "/data/a: b", "#x", "- x", "*.csv", "&a", "!x", "a, b", "C:\\x", "@x", "x ",
     "é ", "a=b", "| x", "> x", "?", "%x", "a'b"],
)  # fmt: skip
def test_a_value_of_the_command_line_is_kept_whole(value: str) -> None:
    assert read_override(f"target.root={value}", {"target": ""}).value == value


def test_lists_and_mappings_of_the_command_line() -> None:
    assert scalar("[0, 1]") == [0, 1]
    assert scalar("{recipe: listed, names: ['a #1', b]}") == {
        "recipe": "listed",
        "names": ["a #1", "b"],
    }
    assert scalar("'/data/birds #2'") == "/data/birds #2"
    for text in ("[a] #2", '"a" b', "[a", "'a", "[x]/y"):
        with pytest.raises(GridError, match="cannot read the value") as caught:
            scalar(text)
        assert "begins with a bracket or a quote" in str(caught.value)


BROKEN: dict[str, tuple[str | bytes, str]] = {
    "deep brackets": (f"a: {'[' * 2000}{']' * 2000}\n", "1: this is not YAML: values are nested"),
    "deep mappings": ("a: " + "{a: " * 900 + "1" + "}" * 900, "1: this is not YAML: values are"),
    "deep blocks": ("".join(" " * i + "a:\n" for i in range(1200)), f"{MAX_DEPTH}: this is not"),
    "deep aliases": (
        "".join(f"k{i}: &k{i} {'[' * 60}{f'*k{i - 1}' if i else 1}{']' * 60}\n" for i in range(9)),
        "1: values are nested deeper than 100 levels\n  a grid needs a few levels",
    ),
    "merged number": ("x: 1\ndefaults: {<<: 5}\n", "2: << takes a mapping or a list of mappings"),
    "merged list": ("defaults: {<<: [{a: 1}, 5]}\n", "1: << takes a mapping"),
    "merged self": ("a: &a {<<: *a}\n", "1: an alias contains itself"),
    "merge bomb": (
        "a0: &a0 {"
        + ", ".join(f"k{i}: 1" for i in range(200))
        + "}\n"
        + "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 4000)),
        "the file has more than 500,000 values, aliases unfolded\n  write fewer",
    ),
    "unknown alias": ("a: *b\n", "1: this is not YAML: found undefined alias 'b'\n  define it"),
    "at": ("about: x\na: @b\n", "2: this is not YAML: found character '@'"),
    "open list": ("a: [1,\n2\nb: 3\n", "3: this is not YAML: expected ',' or ']', but got ':'"),
    "latin": (
        "about: é\n".encode("latin1"),
        "1: this is not text in UTF-8: byte 0xe9 in 'about: é'\n"
        "  save it as UTF-8, or: iconv -f latin1 ",
    ),
    "utf16": (
        "a: 1\n".encode("utf16"),
        "1: this is text in UTF-16, not in UTF-8\n  save it as UTF-8, or: iconv -f utf-16 ",
    ),
    "nul": (b"about: x\na: b\0c\n", "2: character '\\x00' is not allowed in YAML\n  remove it"),
    "key": ("{[1]: 2}\n", "1: a key must be a word"),
    "twice": ("a: 1\na: 2\n", "2: key 'a' is given twice (first at line 1)\n  keep one"),
    "tag": ("a: !!python/name:os.system x\n", "1: 'x' is neither text, number"),
    "two": (
        "a: 1\n---\nb: 1\n",
        "2: this is not YAML: but found another document\n  keep one grid in a file; --- begins",
    ),
    "tab": (
        "a: 1\nb:\n\tc: 1\n",
        "3: this is not YAML: found character '\\t' that cannot start any token\n"
        "  indent with spaces, not with tabs",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_yaml_is_refused_with_line_and_way_out(name: str, tmp_path: Path) -> None:
    text, message = BROKEN[name]
    found = error_of(tmp_path, text)
    assert message in found
    assert found.startswith("grid.yaml")
    assert "\n  " in found
    assert len(found) < 600


def test_merges_are_those_of_yaml() -> None:
    text = "{<<: [{a: 1, b: 1}, {a: 2, c: 2}], c: 3, <<: {d: 4, a: 9}}"
    one = "{<<: [{a: 1, b: 1}, {a: 2, c: 2}, {d: 4, a: 9}], c: 3}"
    assert parse_yaml(text, "x").value == yaml.safe_load(one)


def test_a_grid_is_a_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "long").write_bytes(b"#" * 4_000_001)
    for name, reason in {
        "pipe": "it is a pipe or a device, not a regular file",
        "loop": "Too many levels of symbolic links",
        ".": "it is a folder",
        "long": "it is larger than 4,000,000 bytes",
        "nothing": "No such file or directory",
        "/dev/zero": "it is a pipe or a device, not a regular file",
    }.items():
        with pytest.raises(GridError, match=f"cannot read the grid: {reason}"):
            read_yaml(tmp_path / name)


NAMES = {
    '"a;b"': "'a;b' has ';' in its name",
    '""': "'' has no letters",
    '" "': "' ' has no letters",
    "a/b": "'a/b' has '/' in its name",
    '"a\\nb"': "'a\\nb' has '\\n' in its name",
    '"a\\e[2Jb"': "'a\\x1b[2Jb' has '\\x1b' in its name",
    '"\\u202egnp"': "'\\u202egnp' has '\\u202e' in its name",
    ".a": "'.a' begins with a dot, or begins or ends with a space",
    "'a '": "'a ' begins with a dot, or begins or ends with a space",
    "é" * 51: f"{'é' * 51!r} is longer than 100 bytes",
    "(sources)": "'(sources)' is what tables call runs without an experiment",
    "(ingredients)": "'(ingredients)' is what tables call runs without an experiment",
}


@pytest.mark.parametrize("name", NAMES)
def test_names_that_files_and_tables_cannot_hold_are_refused(name: str, tmp_path: Path) -> None:
    way_out = (
        "\n  give another name: printable characters without / \\ and ;, no dot in front, "
        "at most 100 bytes"
    )
    found = error_of(tmp_path, f"{HEAD}  ? {name}\n  : {{axes: {{seed: [0]}}}}\n")
    assert found == f"grid.yaml:6: experiment {NAMES[name]}{way_out}"
    found = error_of(tmp_path, f"name: {name}\n{HEAD}  a: {{axes: {{seed: [0]}}}}\n")
    assert found == f"grid.yaml:1: name {NAMES[name]}{way_out}"


def test_the_name_of_the_file_is_a_name_too(tmp_path: Path) -> None:
    path = tmp_path / f"{'x' * 150}.yaml"
    path.write_text(f"{HEAD}  a: {{axes: {{seed: [0]}}}}\n")
    with pytest.raises(GridError, match="is longer than 100 bytes"):
        load_grid(path)


@pytest.mark.parametrize("name", ["[b]", "a,b", "a b", "é", "a: b", "[red]", "007", "a#b"])
def test_other_names_are_kept_as_written(name: str, tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(f"{HEAD}  '{name}': {{axes: {{seed: [0]}}}}\n")
    assert [one.name for one in load_grid(path).experiments] == [name]


def test_more_cells_than_can_be_planned_are_refused_at_once(tmp_path: Path) -> None:
    rates = ", ".join(f"0.{n:04}" for n in range(1, 1000))
    text = f"{HEAD}  e: {{axes: {{seed: {list(range(900))}, train.lr: [{rates}]}}}}\n"
    assert error_of(tmp_path, text) == (
        "grid.yaml:6: 900 × 999 values make 899,100 cells, more than 200,000\n"
        "  take fewer values, or let some go together under zip:"
    )


def test_numbers_have_an_end(tmp_path: Path) -> None:
    cell = "target.images_per_class: 10000000000000000000000"
    text = f"{HEAD}  e: {{set: {{{cell}}}, axes: {{seed: [0]}}}}\n"
    assert "images_per_class is 10000000000000000000000: must be at most 1000000000 (exp" in (
        error_of(tmp_path, text)
    )
