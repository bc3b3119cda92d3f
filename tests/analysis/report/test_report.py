"""The report: whole, self-contained, harmless, honest about what is missing, and it opens."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis.comparisons.evidence import Evidence
from analysis.leaderboard.read import ADDED, prepare, read
from analysis.measurements.tables import Measurements
from analysis.papers.ambiguities import AMBIGUITIES
from analysis.report.build import Report, build, compose, page, write
from analysis.report.figures import Numbers, numbers
from analysis.report.summary import headline
from bench.core.errors import DataError

SECTIONS = [
    "headline",
    "answers",
    "figures",
    "findings",
    "advice",
    "measured",
    "ambiguities",
    "machines",
    "gaps",
]


class Page(HTMLParser):
    """What a page consists of, read by the standard library."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.unclosed = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "br", "path", "use", "rect", "line", "circle"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def borrowing(committed: Path) -> Report:
    board = read(committed / "borrowing-tiny-imagenet.csv")
    return build("borrowing-tiny-imagenet", Evidence(board), png=False)


@pytest.fixture(scope="module")
def found(committed: Path) -> Numbers:
    return numbers(Evidence(read(committed / "tiny-imagenet.csv")))


@pytest.fixture(scope="module")
def photographs(found: Numbers) -> Report:
    return compose("tiny-imagenet", found, png=False)


def test_the_page_has_its_parts_in_order(photographs: Report) -> None:
    found = Page(page(photographs))
    ids = [str(attrs["id"]) for attrs in found.of("section")]
    assert ids == SECTIONS
    assert found.of("html") == [{"lang": "en"}]
    assert len(found.of("h1")) == 1
    assert len(photographs.headline) == 3
    assert len(found.of("svg")) == sum(name.endswith(".svg") for name in photographs.files) >= 12


def test_the_page_is_self_contained(photographs: Report) -> None:
    text = page(photographs)
    found = Page(text)
    assert not found.of("script")
    assert not found.of("img")
    outside = [
        value
        for _, attrs in found.tags
        for name, value in attrs.items()
        if name in ("src", "href", "xlink:href", "srcset", "data") and value
        if re.match(r"(https?:)?//", value)
    ]
    assert not outside
    assert "@import" not in text
    assert not re.findall(r"url\((?!#)", text)
    assert len(text.encode()) < 3_000_000


def test_the_page_can_be_read_without_eyes(photographs: Report) -> None:
    found = Page(page(photographs))
    for attrs in found.of("svg"):
        assert attrs["role"] == "img"
        assert attrs["aria-labelledby"]
    tables = len(found.of("table"))
    assert len(found.of("caption")) == tables
    assert all(attrs.get("scope") in ("row", "col") for attrs in found.of("th"))
    ids = [attrs["id"] for _, attrs in found.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    local = {str(a["href"])[1:] for a in found.of("a") if str(a["href"]).startswith("#")}
    assert local <= set(map(str, ids))


def test_tables_have_rows_as_long_as_their_heads_and_no_nan(
    photographs: Report, borrowing: Report
) -> None:
    for report in (photographs, borrowing):
        for section in report.sections:
            for table in section.tables:
                assert table.rows
                assert {len(row) for row in table.rows} == {len(table.head)}
        words = re.findall(r">([^<>]*)<", page(report))
        assert not [w for w in words if re.search(r"\b(nan|None|NaT|inf)\b", w)]


def test_every_claim_and_every_ambiguity_is_there(borrowing: Report) -> None:
    text = page(borrowing)
    for claim in ("SFT-C1", "GE-C3", "LI-C11", "CHU-C5"):
        assert claim in text
    for ambiguity in AMBIGUITIES:
        assert f">{ambiguity.id}<" in text
    assert len({a.id for a in AMBIGUITIES}) == len(AMBIGUITIES) == 33


def test_what_could_not_be_drawn_says_why_and_what_provides_it(borrowing: Report) -> None:
    missing = {
        figure.name: figure.missing
        for section in borrowing.sections
        for figure in section.figures
        if figure.svg is None
    }
    gaps = next(s for s in borrowing.sections if s.id == "gaps")
    assert not missing
    said = " ".join(gaps.items)
    for part in ("Learning rate", "Which source?", "measure: section", "add train.lr"):
        assert part in said
    measured = next(s for s in borrowing.sections if s.id == "measured")
    assert any("bench report with the grid file" in text for text in measured.texts)


def hostile(committed: Path) -> pd.DataFrame:
    board = read(committed / "borrowing.csv")
    raw = board[[c for c in board.columns if c not in ("depth", "reinit", "frozen", "treatment")]]
    return prepare(
        raw.assign(
            target="<script>alert(1)</script>",
            dataset='"><img src=x onerror=alert(2)>',
            source=raw["source"].replace({"near": "<b>near</b> & $x$"}),
            device="</table><script>alert(3)</script>",
        )
    )


def test_names_and_reasons_from_data_are_harmless_and_failures_are_gaps(committed: Path) -> None:
    board = hostile(committed).astype({"reason": object})
    board.loc[5:8, "status"] = "failed"
    board.loc[5:8, "reason"] = "out of memory & <tired>"
    board.loc[9:10, "status"] = "not converged"
    report = build("<script>alert(0)</script>", Evidence(board), png=False)
    text = page(report)
    found = Page(text)
    assert not found.of("script")
    assert not found.of("img")
    assert "<script" not in text
    assert "<b>" not in text
    assert html.escape("<script>alert(1)</script>") in text
    for data in report.files.values():
        assert b"<script" not in data
    assert f"4 of the leaderboard's {len(board)} runs have no result." in html.unescape(text)
    assert "2 runs never left chance in training." in text
    assert "out of memory &amp; &lt;tired&gt;" in text


def test_an_unfinished_leaderboard_is_refused(committed: Path) -> None:
    board = read(committed / "borrowing.csv")
    with pytest.raises(DataError, match="none of 154 runs is finished"):
        build("b", Evidence(board.assign(status="missing")))
    with pytest.raises(DataError, match="154 never left chance"):
        build("b", Evidence(board.assign(status="not converged")))


def test_one_run_gives_a_page_that_says_what_is_missing(committed: Path) -> None:
    board = read(committed / "borrowing.csv")
    one = board[board["role"] != "source"].head(1).reset_index(drop=True)
    report = build("one", Evidence(one), png=False)
    text = page(report)
    assert "No question can be answered" in text
    assert report.headline == (
        "No two recipes are compared here: add training from scratch and freezing to the grid.",
    )
    race = one.assign(experiments="floor-logistic-1;rung-1-frozen")
    assert build("race", Evidence(race), png=False).headline == (
        "These runs are a race, in which validation images stop all recipes but the best, so no "
        "two are compared to the end: which one won, and its accuracy, stand in the model's card "
        "(models/NAME/README.md in the results folder); to compare recipes with intervals, run "
        "grids/own-images.yaml.",
    )
    assert set(report.files) == {"findings.svg"}
    lines = ["", "accuracy  94.8 % of 153 test images", "mistakes  <b>bees</b> called ants 4"]
    answered = build("race", Evidence(race), png=False, answer=lines)
    first, *others = answered.sections
    assert first.texts == tuple(" ".join(line.split()) for line in lines[1:])
    assert {one.id for one in others if not one.is_folded} == {"figures"}
    assert "&lt;b&gt;bees&lt;/b&gt; called ants 4" in page(answered)


def test_measurements_have_tables_and_figures_where_they_exist(committed: Path) -> None:
    distances = pd.DataFrame(
        [
            {
                "dataset": "wordnet-shapes",
                "target": "mammal.n.01",
                "class_draw": draw,
                "source": source,
                "model": "narrow8_32",
                "distance": name,
                "value": value + 0.01 * draw,
                "low": value - 0.02,
                "high": value + 0.03,
                "n": 200,
                "notes": "",
            }
            for draw in (0, 1)
            for source, value in (("near", 0.1), ("far", 0.4))
            for name in ("cosine", "linear MMD")
        ]
    )
    sensitivities = pd.DataFrame(
        {
            "a": ["near"],
            "b": ["self"],
            "percentage": [51.0],
            "reverse_percentage": [45.0],
            "ties_percentage": [4.0],
            "n_classes": [20],
        }
    )
    board = read(committed / "borrowing.csv").head(8)
    found = Measurements(distances, None, sensitivities, missing=("probes of far are missing",))
    evidence = Evidence(board, sensitivities=sensitivities)
    report = build("b", evidence, found, png=False)
    assert {"distances.svg", "filters.svg"} <= set(report.files)
    text = page(report)
    assert "Not measured: probes of far are missing." in text
    assert "near over self" in text


def test_the_answers_say_how_much_was_tested_and_where_a_verdict_holds(
    found: Numbers, photographs: Report
) -> None:
    answers = next(s for s in photographs.sections if s.id == "answers")
    family = {test.hypothesis for test in found.tests if test.p is not None}
    assert (
        f"Tested here: {len(family)} comparisons, this page's answers and claims"
        in answers.texts[1]
    )
    assert "an effect of 1 point or more" in answers.texts[1]
    tables = [table for table in answers.tables if "verdict" in table.head]
    cells = [dict(zip(t.head, row, strict=True)) for t in tables for row in t.rows]
    assert len(cells) == len(found.gains)
    holds = {"in general", "on these 3 tasks", "on these 6 tasks"}
    for cell in cells:
        assert cell["verdict"] in ("higher", "lower", "undecided")
        assert (cell["holds"] in holds) == (cell["verdict"] != "undecided")
        if "seed" in cell["n"]:  # two of one target: too few to be tested
            assert (cell["p (Holm)"], cell["verdict"], cell["holds"]) == ("–", "undecided", "–")
    assert {cell["holds"] for cell in cells} == holds | {"–"}
    main = found.gains[found.gains["main"]]
    captions = {f.name: f.caption for s in photographs.sections for f in s.figures}
    for name, question in (("start", "start"), ("treatment", "treatment"), ("source", "source")):
        rows = main[main["question"] == question]
        decided = int((rows["verdict"] != "undecided").sum())
        general = int((rows["scope"] == "in general").sum())
        assert captions[name].startswith(
            f"{decided} of {len(rows)} differences are decided after Holm (filled), {general} of "
            "them as a general statement; "
        )


def test_findings_stand_with_both_verdicts(found: Numbers, photographs: Report) -> None:
    (table,) = next(s for s in photographs.sections if s.id == "findings").tables
    cells = [dict(zip(table.head, row, strict=True)) for row in table.rows]
    there = found.findings[found.findings["effect"].notna()]
    assert [(c["verdict"], c["on these tasks"]) for c in cells] == [
        (row["verdict"], row["here"]) for row in there.to_dict("records")
    ]
    assert [c["claim"].split(":")[0] for c in cells] == list(there["claim"])
    others = found.findings.loc[found.findings["effect"].isna(), "claim"]
    assert (
        f"{len(others)} claims have no runs here ({', '.join(others)}); bench findings --published "
        "lists what the papers' numbers say of them."
    ) in table.note
    assert {c["on these tasks"] for c in cells} > {"not enough evidence"}


def test_diverged_runs_are_on_the_page_at_chance(committed: Path) -> None:
    board = read(committed / "borrowing.csv")
    size = (board["n_per_class"] == 20) | (board["role"] == "source")
    plain = board[(board["method"] == "plain") & size].reset_index(drop=True)
    tuned = (plain["pattern"] == "T(1-7)R(8)") & (plain["source"] == "near")
    tuned &= plain[["tuned", "layer_lr_decay", "l2_sp"]].isna().all(axis="columns")
    tuned &= plain["n_per_class"] == 20
    away = plain.index[tuned][:2]
    plain = plain.astype({"status": object, "reason": object})
    plain.loc[away, ["status", "reason"]] = ["diverged", "loss not finite in epoch 1"]
    changed = prepare(plain.drop(columns=[n for n in ADDED if n in plain.columns]))
    report = build("b", Evidence(changed), png=False)
    assert " 2 runs diverged and count at chance." in report.about
    answers = next(s for s in report.sections if s.id == "answers")
    (table,) = (t for t in answers.tables if t.caption == "Tune or freeze?")
    assert "2 diverged runs at chance" in table.note
    # The means of the three seeds, two of which are at one in ten.
    row = next(r for r in table.rows if r[2] == "20")
    rows = changed[tuned]
    assert len(rows) == 3
    assert sorted(rows["top1_accuracy"])[:2] == [0.1, 0.1]
    assert row[3].startswith(f"{100 * rows['top1_accuracy'].mean():.1f} − ")
    gaps = next(s for s in report.sections if s.id == "gaps")
    (listed,) = (t for t in gaps.tables if t.head[0] == "status")
    assert [(*row[:2], row[3]) for row in listed.rows] == [
        ("diverged", "2", "loss not finite in epoch 1")
    ]


def gain_row(question: str, n: float, gain: float, **given: Any) -> dict[str, Any]:
    """A decided row of `analysis.findings.evaluate.examine`."""
    return {
        "question": question,
        "label": "near, tuned − frozen",
        "left_name": "near, tuned",
        "right_name": "near, frozen",
        "treatment": "",
        "source": "near",
        "setting": "",
        "main": True,
        "n_per_class": n,
        "gain_points": gain,
        "low": gain - 1,
        "high": gain + 1,
        "n": 3,
        "unit": "task",
        "pairs": 9,
        "lr": "same",
        "edge": "",
        "verdict": "higher" if gain > 0 else "lower",
        "scope": "in general",
        "p_holm": 0.01,
    } | given


CROSSINGS = pd.DataFrame(
    [
        {
            "label": "near, tuned − frozen",
            "setting": "",
            "images": 14.2,
            "low": 10.0,
            "high": 19.0,
            "decided": True,
        }
    ]
)
TREATED = [gain_row("treatment", 5.0, -2.0), gain_row("treatment", 100.0, 6.0)]


def test_the_headline_follows_the_numbers() -> None:
    gains = pd.DataFrame(TREATED)
    first, second = headline(gains, CROSSINGS, pd.DataFrame())
    assert first == (
        "Of a network pretrained on near, freeze all layers but the last at 5 images per class "
        "(+2.0 points (+1.0 to +3.0, 3 tasks) over tuning) and tune them at 100 images per class "
        "(+6.0 points (+5.0 to +7.0, 3 tasks) over freezing); the curves cross at about 14 images "
        "per class (10 to 19)."
    )
    assert "training from scratch" in second
    # A crossing that is not decided is no advice.
    open_ = headline(gains, CROSSINGS.assign(decided=False), pd.DataFrame())
    assert "cross" not in open_[0]
    turned = headline(gains.assign(verdict="undecided", scope=""), CROSSINGS, pd.DataFrame())
    assert turned[0].startswith("Whether to tune or to freeze near is undecided")
    assert "cheaper" not in turned[0]
    assert "about 4 tasks instead of 3 would decide it, tested alone" in turned[0]
    alone = gains.assign(verdict="undecided", scope="", low=None, high=None)
    assert "more repetitions are needed" in headline(alone, CROSSINGS, pd.DataFrame())[0]


def test_the_headline_says_where_a_verdict_holds_for_these_tasks_alone() -> None:
    gains = pd.DataFrame(TREATED).assign(scope=["on these 3 tasks", "in general"])
    first = headline(gains, CROSSINGS, pd.DataFrame())[0]
    assert "(+2.0 points (+1.0 to +3.0, 3 tasks) over tuning, on these 3 tasks)" in first
    assert "(+6.0 points (+5.0 to +7.0, 3 tasks) over freezing)" in first
    one = gains.iloc[1:].assign(n=5, unit="seed", scope="on this task")
    first = headline(one, CROSSINGS, pd.DataFrame())[0]
    assert first == (
        "Tune the copied layers of near: +6.0 points (+5.0 to +7.0, 5 seeds) over freezing at 100 "
        "images per class, on this task."
    )


def test_no_sentence_of_the_headline_contradicts_another() -> None:
    """Sources and the start are spoken of with the treatment that is advised at that size."""
    others = [
        gain_row(
            question,
            5.0,
            gain,
            label=f"{left} − {right}, {word}",
            left_name=left if question == "source" else f"{left}, {word}",
            right_name=right,
            treatment=word,
        )
        for question, left, right in (("source", "near", "far"), ("start", "near", "scratch"))
        for word, gain in (("tuned", 9.0), ("frozen", 4.0))
    ]
    gains = pd.DataFrame([*TREATED, *others])
    start, treatment, source = headline(gains, CROSSINGS, pd.DataFrame())
    assert "freeze all layers but the last at 5" in treatment
    assert start.startswith("Start from a pretrained network: near, frozen, it is +4.0 points")
    assert source.startswith("Take near rather than far as the source: +4.0 points")
    assert source.endswith("at 5 images per class, frozen.")
    undecided = gains.assign(
        verdict=["lower", "higher", *["undecided"] * 4], scope=["in general"] * 2 + [""] * 4
    )
    start, _, source = headline(undecided, CROSSINGS, pd.DataFrame())
    assert start.startswith("Whether copying pays is undecided: near, frozen, it is +4.0 points")
    assert source.startswith("Which source is better is undecided: near less far, frozen")


def test_writing_leaves_the_page_and_the_figures(tmp_path: Path, borrowing: Report) -> None:
    index = write(borrowing, tmp_path / "b")
    assert index.read_text(encoding="utf-8") == page(borrowing)
    assert {p.name for p in index.parent.iterdir()} == {"index.html", *borrowing.files}


# --- a real browser ------------------------------------------------------------------------------

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")
_LOOK = """<script>addEventListener('load', () => {
const wide = document.documentElement;
const empty = [...document.querySelectorAll('figure svg')].filter(
  s => s.getBoundingClientRect().height < 60 || !s.querySelectorAll('text').length).length;
const small = [...document.querySelectorAll('section')].filter(s => s.offsetHeight < 30).length;
parent.postMessage({inner: innerWidth, scroll: wide.scrollWidth, empty, small,
  figures: document.querySelectorAll('figure svg').length,
  sections: [...document.querySelectorAll('section')].map(s => s.id),
  requests: performance.getEntriesByType('resource').map(r => r.name)}, '*');});</script>"""
_FRAME = """<!DOCTYPE html><title>waiting</title><script>addEventListener('message', e => {
document.title = JSON.stringify(e.data);});</script>
<iframe src="inner.html" style="border: 0; width: WIDTHpx; height: 900px"></iframe>"""


def chromium(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    return subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={folder / 'profile'}",
            "--enable-logging=stderr",
            *arguments,
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env={"HOME": str(folder), "PATH": "/usr/bin:/bin"},
    )


@browser
@pytest.mark.parametrize("width", [400, 1200])
def test_the_page_opens_in_a_browser(tmp_path: Path, photographs: Report, width: int) -> None:
    # The page forbids scripts; a copy that allows one measures what the browser made of it.
    text = page(photographs)
    assert text.count("Content-Security-Policy") == 1
    opened = re.sub(r"<meta http-equiv[^>]*>", "", text).replace("</head>", f"{_LOOK}</head>")
    (tmp_path / "inner.html").write_text(opened, encoding="utf-8")
    # A window is never narrower than 500 pixels, a frame may be.
    place = tmp_path / "frame.html"
    place.write_text(_FRAME.replace("WIDTH", str(width)), encoding="utf-8")
    ended = chromium(tmp_path, "--window-size=1400,1000", "--dump-dom", place.as_uri())
    titles = re.findall(r"<title>(\{.*?\})</title>", ended.stdout)
    assert titles, ended.stdout[:500]
    seen = json.loads(html.unescape(titles[0]))
    assert seen["inner"] == width
    assert seen["scroll"] <= width
    assert (seen["empty"], seen["small"]) == (0, 0)
    assert seen["sections"] == SECTIONS
    assert seen["figures"] == sum(name.endswith(".svg") for name in photographs.files)
    assert not [name for name in seen["requests"] if not name.startswith("data:")]


@browser
def test_the_page_as_it_is_has_no_console_error_and_prints(
    tmp_path: Path, borrowing: Report
) -> None:
    index = write(borrowing, tmp_path / "b")
    printed = tmp_path / "page.pdf"
    ended = chromium(tmp_path, f"--print-to-pdf={printed}", index.as_uri())
    assert "CONSOLE" not in ended.stderr
    assert printed.read_bytes().startswith(b"%PDF")
