"""The review page: what a reviewer reads, first things first, whatever the stages wrote and however names are spelled."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from flows import panel as panels
from pipelines import card, report
from pipelines.commands.publish import Outcome
from pipelines.core import operating, policy
from pipelines.core.evaluation import Cases, Display, Scored
from pipelines.review import forest, page
from pipelines.review.brief import brief
from tests.stages.judging import edit
from tests.stages.pages import full

LIMIT = 1_500_000


class Text(HTMLParser):
    """Text of a page outside of scripts and styles, the elements that it has, and their attributes."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inside = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside = tag

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside not in ("script", "style"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def made() -> str:
    """The page of the workspace in the current directory."""
    report.main()
    return Path("data/report/review.html").read_text(encoding="utf-8")


def test_the_verdict_comes_first_then_every_criterion_with_both_models(judged: Path) -> None:
    source = (judged / "data/report/review.html").read_text(encoding="utf-8")
    shown, verdict = Text(source), json.loads((judged / "data/gate/verdict.json").read_text())
    places = [source.index(f'id="{name}"') for name, _ in page.CONTENTS]
    assert places == sorted(places)
    assert all(reason in shown.text for reason in (" ".join(text.split()) for text in verdict["reasons"]))
    assert "Utility per case" in shown.text and "Log loss" in shown.text
    assert "expost promote N --by NAME --why TEXT" in shown.text
    assert len([tag for tag, _ in shown.elements if tag == "h1"]) == 1


def test_the_page_asks_for_nothing_and_allows_only_its_own_script_and_style(judged: Path) -> None:
    source = (judged / "data/report/review.html").read_text(encoding="utf-8")
    shown = Text(source)
    assert not [attributes for _, attributes in shown.elements if {"src", "style", "onclick", "onload"} & set(attributes)]
    assert {str(attributes["href"])[:1] for tag, attributes in shown.elements if "href" in attributes and tag != "link"} == {"#"}
    (allowed,) = [attributes["content"] for tag, attributes in shown.elements if tag == "meta" and "http-equiv" in attributes]
    assert allowed is not None and allowed.startswith("default-src 'none'; ") and "unsafe" not in allowed
    for tag in ("script", "style"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", source, re.DOTALL)
        assert f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'" in allowed


def test_the_slider_says_what_the_analytic_policy_does_on_the_rows(judged: Path) -> None:
    found = json.loads((judged / "data/evaluate/curves.json").read_text())["operating"]
    rows = pl.read_parquet(judged / "data/evaluate/rows.parquet").drop_nulls("champion_action")
    labels = (rows["label"] == "bad").to_numpy()
    assert found["sizes"][found["now"]] == 5
    for size, threshold, number in zip(found["sizes"], found["thresholds"], range(len(found["sizes"])), strict=True):
        assert threshold == pytest.approx(1 / (1 + size))
        for name in ("challenger", "champion"):
            p = rows[f"{name}_probability_bad"].to_numpy()
            stop = policy.analytic_actions(np.stack([1 - p, p], axis=1), [[0, -1], [-size, 0]]) == 1
            counts = [[int((stop == a)[labels == k].sum()) for a in (False, True)] for k in (False, True)]
            assert found["models"][name][number]["counts"] == counts
            utility = -(counts[0][1] + size * counts[1][0]) / rows.height
            assert found["models"][name][number]["utility"] == pytest.approx(utility)


def test_names_from_the_data_are_text(judged: Path, copy: Path) -> None:
    assert judged != copy
    hostile = "</script><script>alert(1)</script>\"'\u2028$a$"

    def renamed(value: Any) -> Any:
        if isinstance(value, dict):
            return {renamed(key): renamed(item) for key, item in value.items()}
        if isinstance(value, list):
            return [renamed(item) for item in value]
        return hostile if value in ("bad", "stop", "number") else value

    for path in [*Path("data").glob("*/*.json"), *Path("data").glob("*/*/*.json")]:
        path.write_text(json.dumps(renamed(json.loads(path.read_text()))))
    source = made()
    shown = Text(source)
    assert source.count("<script") == source.count("</script") == 2
    assert "\u2028" not in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', source, re.DOTALL)[0]
    assert " ".join(hostile.split()) in shown.text


def test_names_that_are_long_or_no_xml_and_lists_without_end_keep_the_page_whole_and_small(copy: Path) -> None:
    name = "\x07\ufffe" + 400 * "long "
    read = full({**report.read_all(), "provenance": {}})
    read["evaluation"] = {**read["evaluation"], "classes": ["good", name], "slices": 500 * read["evaluation"]["slices"]}
    operated = {**read["curves"]["operating"], "classes": ["good", name], "label": name, "best": ["pass", "stop"]}
    read["curves"] = {**read["curves"], "operating": operated}
    read["verdict"] = {**read["verdict"], "criteria": 20 * read["verdict"]["criteria"]}
    read["changes"] = {**read["changes"], "features": 2000 * read["changes"]["features"]}
    read["lessons"] = {**read["lessons"], "lessons": 500 * read["lessons"]["lessons"]}
    source = page.html(read, report.read_history())
    assert len(source.encode()) < LIMIT
    assert 100 * "long " not in source
    assert "long long" in source and "3940 that moved less are left out" in source


def test_what_is_not_there_yet_is_left_out_and_what_is_unknown_is_shown(copy: Path) -> None:
    unknown = {"criterion": "tail_risk", "verdict": "PASS", "reason": "Fine.", "estimate": 0.2, "low": 0.1, "high": 0.3, "unit": "euro"}
    edit(copy / "data/gate/verdict.json", lambda verdict: verdict["criteria"].append(unknown))
    edit(copy / "data/evaluate/curves.json", lambda curves: curves.pop("operating"))
    edit(copy / "data/evaluate/evaluation.json", lambda found: found.pop("slices"))
    Path("data/decide/lessons.json").unlink()
    shown = Text(made())
    assert "tail risk euro" in shown.text
    assert "No slider: the evaluation holds no operating points." in shown.text
    assert "No slice was declared and no lesson was found." in shown.text


@pytest.mark.parametrize(
    ("state", "said"), [("FAIL", "expost reject N"), ("ERROR", "Nothing may be promoted"), ("INSUFFICIENT_DATA", "--override")]
)
def test_each_verdict_says_what_to_do(copy: Path, state: str, said: str) -> None:
    def judged_as(verdict: dict[str, Any]) -> None:
        verdict["criteria"][0].update(verdict=state, reason="It is so.")
        verdict.update(verdict=state, reasons=["It is so."])

    edit(copy / "data/gate/verdict.json", judged_as)
    shown = Text(made())
    assert said in shown.text
    assert shown.text.index("Why not") < shown.text.index("It is so.") < shown.text.index("What to do")


def test_two_hundred_thousand_rows_are_aggregated() -> None:
    rng, rows = np.random.default_rng(0), 200_000
    odds = rng.normal(-2, 2, rows)
    labels = (rng.random(rows) < 1 / (1 + np.exp(-odds))).astype(np.int64)
    cases = Cases(labels, np.arange(rows), np.ones(rows), np.array([[0.0, -1.0], [-5.0, 0.0]]), -5.0, 0.0, 5.0)

    def model(noise: float) -> Scored:
        p = 1 / (1 + np.exp(-odds - noise * rng.normal(size=rows)))
        return Scored(np.stack([1 - p, p], axis=1), (p > 1 / 6).astype(np.int64), np.zeros((rows, 1)))

    found = operating.along(
        {"challenger": model(0.0), "champion": model(0.5)}, cases, classes=["good", "bad"], actions=["pass", "stop"], display=Display()
    )
    assert found["rows"] == rows
    assert sum(map(sum, found["models"]["champion"][0]["counts"])) == rows
    assert len(json.dumps(found)) < LIMIT / 10
    now = found["difference"][found["now"]]
    assert 0 < now["low"] < now["mean"] < now["high"]


@pytest.mark.parametrize(
    ("kind", "given", "better", "margin"),
    [
        ("utility", {"estimate": 0.1, "low": 0.05, "high": 0.2, "margin": 0.1}, True, True),
        ("log_loss", {"estimate": 0.1, "low": 0.05, "high": 0.2, "margin": 0.1}, False, True),
        ("limit", {"estimate": 0.1, "low": 0.05, "high": 0.2, "margin": 0.3}, True, False),
        ("requirement", {"estimate": 0.1, "low": 0.05, "high": 0.2, "margin": 0.3}, False, False),
        ("negative_flips", {"estimate": 0.4, "low": 0.3, "high": 0.5, "margin": 0.2}, False, False),
    ],
)
def test_better_lies_to_the_right_and_the_margin_to_the_left(kind: str, given: dict[str, float], better: bool, margin: bool) -> None:
    found = forest.marks({"criterion": kind, **given}, None)
    assert found is not None
    assert (found.estimate > 0) == better
    assert -1 <= found.low <= found.estimate <= found.high <= 1
    assert [place < 0 for place in found.margins] == [True] * margin


def test_a_range_is_drawn_around_its_middle_and_a_far_estimate_at_the_edge() -> None:
    item = {"criterion": "slope", "estimate": 9.0, "low": 0.8, "high": 1.25, "margin": None}
    found = forest.marks(item, {"mean": 9.0, "low": 2.0, "high": None})
    assert found is not None and found.right is not None
    assert found.right[0] < 0 < found.right[1] < found.low <= found.estimate == found.high == 1
    assert forest.marks({**item, "estimate": None}, None) is None


def test_card_and_artifact_of_the_run_carry_the_page_in_short(judged: Path, copy: Path) -> None:
    with_all = full({**report.read_all(), "provenance": {}})
    shown = {part["title"]: part for part in brief(with_all)}
    assert list(shown) == ["Criteria of the gate", "Utility by slice, holdout", "Lessons", "Data since the champion"]
    rows = {row[0]: row[1:] for row in shown["Criteria of the gate"]["rows"]}
    assert rows["Slice flag"] == (
        "-0.5000 [-0.5200, -0.4800]",
        "-0.4000 [-0.4200, -0.3800]",
        "-0.1000 [-0.1200, -0.0800]",
        "0.03",
        "✕ fail",
    )
    assert shown["Criteria of the gate"]["lines"] == ["These holdout rows were looked at 7 times before; the limit is 50."]
    assert shown["Data since the champion"]["rows"][0][0] == "colour"
    text = card.markdown(with_all, [])
    assert "## Lessons" in text and "| number \\> 1.5 and colour is red | 80 | 20 % |" in text
    panel = json.loads(Path("data/report/panel.json").read_text())
    edit(Path("data/report/panel.json"), lambda found: found.update(brief=brief(with_all)))
    artifact = panels.markdown(Outcome("PASS", False, ("A reason.",)), None)
    assert panel["brief"][0]["title"] == "Criteria of the gate"
    assert "## Utility by slice, holdout" in artifact
    assert "- Rows: 600 then, 700 now (+100)." in artifact
