"""The review page in a real browser: Debian's Chromium, headless, without a network."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from flows.server import free_port, mlflow_server
from pipelines import report
from pipelines.core import policy
from pipelines.review import page
from tests.stages.pages import full, measured

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="needs chromium and chromedriver (Debian: chromium, chromium-driver)"
)
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1200,900",
)
HOSTILE = '</script><script>window.taken=1</script><img src=x onerror="window.taken=1">\'\u2028'
#: Whether the dot of a model lies on a line of its colour, and the marker at the same place.
ON_THE_LINE = """
const dot = document.querySelector(`#costs .dot.${arguments[0]}`), at = new DOMPoint(dot.getAttribute("cx"), dot.getAttribute("cy"));
const marker = document.querySelector("#costs .marker"), colour = getComputedStyle(dot).fill;
const lines = [...document.querySelectorAll("#costs svg path")].filter((p) => getComputedStyle(p).stroke === colour && p.getTotalLength() > 200);
lines.forEach((line) => { line.style.strokeDasharray = "none"; });
return lines.length === 1 && lines[0].isPointInStroke(at) && marker.getAttribute("x1") === dot.getAttribute("cx");
"""
#: Contrast of every piece of text with what lies behind it, as WCAG 2 defines it, below 4.5.
FAINT = """
const parse = (c) => { const m = c.match(/[\\d.]+/g).map(Number); return m.length > 3 && m[3] === 0 ? null : m.slice(0, 3); };
const light = (c) => { const [r, g, b] = c.map((v) => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const behind = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c) return c; } return [255, 255, 255]; };
const found = [];
for (const e of document.querySelectorAll("body *")) {
  if (![...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()) || e.closest("script, title, desc")) continue;
  const style = getComputedStyle(e), colour = parse(e.closest("svg") ? style.fill : style.color);
  if (!colour || !e.getClientRects().length) continue;
  const [a, b] = [light(colour), light(behind(e))].sort((x, y) => y - x);
  if ((a + 0.05) / (b + 0.05) < 4.5) found.push(e.tagName + " " + e.textContent.slice(0, 30));
}
return found;
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=str(DRIVER)))
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture
def opened(browser: webdriver.Chrome) -> Iterator[webdriver.Chrome]:
    """The browser, with nothing emulated and with empty logs."""
    emulate(browser)
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    yield browser
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.fixture(scope="module")
def read(judged: Path) -> dict[str, Any]:
    """What the report of the judged workspace read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(judged)
        return {**report.read_all(), "provenance": report.provenance()}


def emulate(browser: webdriver.Chrome, media: str = "", **features: str) -> None:
    listed = [{"name": f"prefers-{name.replace('_', '-')}", "value": value} for name, value in features.items()]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": listed})


def show(
    browser: webdriver.Chrome,
    folder: Path,
    read: dict[str, Any],
    history: Any = ({"epoch": 0.0, "train_loss": 0.5, "valid_log_loss": 0.6},),
) -> Path:
    path = folder / "review.html"
    path.write_text(page.html(read, history), encoding="utf-8")
    browser.get(path.as_uri())
    return path


def cell(browser: webdriver.Chrome, name: str) -> str:
    return str(browser.find_element(By.CSS_SELECTOR, f'[data-cell="{name}"]').text)


def requests(browser: webdriver.Chrome) -> list[str]:
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [item["params"]["request"]["url"] for item in messages if item["method"] == "Network.requestWillBeSent"]


def focus(browser: webdriver.Chrome, name: str) -> WebElement:
    """Reach the element with this id by Tab alone."""
    for _ in range(60):
        webdriver.ActionChains(browser).send_keys(Keys.TAB).perform()
        active = browser.switch_to.active_element
        if active.get_attribute("id") == name:
            return active
    raise AssertionError(f"{name} cannot be reached by Tab")


def test_the_slider_moved_by_keyboard_shows_pythons_numbers(opened: webdriver.Chrome, judged: Path) -> None:
    rows = pl.read_parquet(judged / "data/evaluate/rows.parquet").drop_nulls("champion_action")
    labels, sizes = (
        (rows["label"] == "bad").to_numpy(),
        json.loads((judged / "data/evaluate/curves.json").read_text())["operating"]["sizes"],
    )
    opened.get((judged / "data/report/review.html").as_uri())
    slider, at = focus(opened, "ratio"), sizes.index(5)
    assert float(opened.execute_script("return parseFloat(getComputedStyle(document.activeElement).outlineWidth)")) >= 2
    for keys, to in ((Keys.ARROW_RIGHT * 3, at + 3), (Keys.HOME, 0), (Keys.END, len(sizes) - 1), (Keys.ARROW_LEFT * 2, len(sizes) - 3)):
        slider.send_keys(keys)
        size = sizes[to]
        assert slider.get_attribute("aria-valuetext") == cell(opened, "size") == (f"{size:.4g} : 1" if size >= 1 else f"1 : {1 / size:.4g}")
        assert cell(opened, "threshold") == f"{1 / (1 + size):.4f}"
        for name in ("challenger", "champion"):
            p = rows[f"{name}_probability_bad"].to_numpy()
            stop = policy.analytic_actions(np.stack([1 - p, p], axis=1), [[0, -1], [-size, 0]])
            for k in (0, 1):
                for a in (0, 1):
                    assert cell(opened, f"{name}-{k}-{a}") == str(((labels == k) & (stop == a)).sum())
            utility = -(((labels == 0) & (stop == 1)).sum() + size * ((labels == 1) & (stop == 0)).sum()) / rows.height
            assert cell(opened, f"{name}-utility") == f"{utility:z.4f}"
            assert f"{name} {utility:z.4f}" in opened.find_element(By.ID, "said").text
        for name in ("challenger", "champion"):
            assert opened.execute_script(ON_THE_LINE, name), (name, size)
    opened.find_element(By.ID, "now").send_keys(Keys.ENTER)
    assert cell(opened, "size") == "5 : 1"


def test_the_page_sends_nothing_and_its_console_is_empty(opened: webdriver.Chrome, tmp_path: Path, read: dict[str, Any]) -> None:
    path = show(opened, tmp_path, full(read))
    opened.find_element(By.ID, "ratio").send_keys(Keys.ARROW_RIGHT)
    opened.find_element(By.ID, "theme").send_keys(Keys.ENTER)
    assert {url for url in requests(opened) if not url.startswith("data:")} == {path.as_uri()}
    assert opened.get_log("browser") == []
    # the policy is in force: what the page did not bring along neither loads nor runs
    opened.execute_script("const s = document.createElement('script'); s.textContent = 'window.taken = 1'; document.body.append(s);")
    opened.execute_script("const i = new Image(); i.src = 'http://127.0.0.1:9/x.png'; document.body.append(i);")
    assert opened.execute_script("return window.taken") is None
    assert sum("Content Security Policy" in entry["message"] for entry in opened.get_log("browser")) == 2


def test_hostile_names_are_shown_as_text(opened: webdriver.Chrome, tmp_path: Path, read: dict[str, Any]) -> None:
    def renamed(value: Any) -> Any:
        if isinstance(value, dict):
            return {renamed(key): renamed(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [renamed(item) for item in value]
        return HOSTILE if value in ("bad", "stop", "colour", "red", "flag", "outcome", "mauve") else value

    show(opened, tmp_path, renamed(full(read)))
    opened.find_element(By.ID, "ratio").send_keys(Keys.ARROW_RIGHT)
    assert opened.execute_script("return window.taken") is None
    assert opened.execute_script("return document.images.length + document.scripts.length") == 2
    assert HOSTILE.strip() in str(opened.execute_script("return document.querySelector('.eyebrow strong').textContent"))
    assert f"always {HOSTILE[:29]}…" in str(opened.execute_script("return document.querySelector('#costs svg').textContent"))
    assert opened.get_log("browser") == []


def test_light_and_dark_by_the_systems_wish_and_by_the_button(opened: webdriver.Chrome, tmp_path: Path, read: dict[str, Any]) -> None:
    paper = "return getComputedStyle(document.body).backgroundColor"
    line = "return getComputedStyle(document.querySelector('#reliability svg, #calibration svg text')).fill"
    seen = []
    for scheme in ("light", "dark"):
        show(opened, tmp_path, full(read))
        emulate(opened, color_scheme=scheme)
        for _ in range(2):
            seen.append((opened.execute_script(paper), opened.execute_script(line)))
            opened.execute_script("document.querySelectorAll('details').forEach((part) => part.open = true)")
            assert opened.execute_script(FAINT) == []
            focus(opened, "theme").send_keys(Keys.SPACE)
    assert seen[0] == seen[3] != seen[1] == seen[2]
    assert [one != other for one, other in zip(*seen[:2], strict=True)] == [True, True]


def test_it_can_be_read_without_seeing_it(opened: webdriver.Chrome, tmp_path: Path, read: dict[str, Any]) -> None:
    show(opened, tmp_path, full(read))
    said = opened.execute_script
    assert [
        said(f"return document.querySelectorAll('{mark}').length") for mark in ("main", "header", "nav[aria-label]", "footer", "h1")
    ] == [1] * 5
    levels = [int(level[1]) for level in said("return [...document.querySelectorAll('h1,h2,h3,h4')].map((e) => e.tagName)")]
    assert levels[0] == 1 and all(b - a <= 1 for a, b in itertools.pairwise(levels))
    assert said("return [...document.querySelectorAll('table')].filter((t) => !t.caption || !t.caption.textContent.trim()).length") == 0
    assert said("return [...document.querySelectorAll('th')].filter((t) => !t.scope).length") == 0
    assert (
        said(
            "return [...document.querySelectorAll('svg')].filter((s) => !s.ariaHidden && !document.getElementById(s.getAttribute('aria-labelledby').split(' ')[0])).length"
        )
        == 0
    )
    assert said("return document.getElementById('ratio').labels[0].textContent.length") > 10
    assert said("return document.querySelectorAll('[aria-live=polite]').length") == 1
    ids = said("return [...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))


def test_a_narrow_screen_paper_and_less_motion(opened: webdriver.Chrome, tmp_path: Path, read: dict[str, Any]) -> None:
    show(opened, tmp_path, full(read))
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": False})
    assert opened.execute_script("return document.documentElement.scrollWidth") <= 390
    emulate(opened, reduced_motion="reduce")
    assert opened.execute_script("return getComputedStyle(document.querySelector('.marker')).transitionDuration") == "0s"
    emulate(opened, "print", color_scheme="dark")
    assert opened.execute_script("return getComputedStyle(document.querySelector('nav')).display") == "none"
    assert opened.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": 718, "height": 1000, "deviceScaleFactor": 1, "mobile": False})
    right = "return Math.max(...[...document.querySelectorAll('table, svg')].map((part) => part.getBoundingClientRect().right))"
    assert opened.execute_script(right) <= 718  # A4 within its margins: nothing is cut off
    opened.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert opened.execute_script("return document.querySelectorAll('details:not([open])').length") == 0


def test_all_that_the_stages_add_is_shown(opened: webdriver.Chrome, tmp_path: Path, read: dict[str, Any]) -> None:
    show(opened, tmp_path, full(read))
    opened.execute_script("document.querySelectorAll('details').forEach((part) => part.open = true)")
    text = " ".join(opened.find_element(By.TAG_NAME, "main").text.split())
    for shown in (
        "Fail: worse",
        "The reason of slice.",
        "champion, re-decided",
        "first champion, version 1",
        "earlier lesson, version 3",
        "shown only",
        "0.8 to 1.25",
        "at most 0.2",
        "number > 1.5 and colour is red: 80 calib rows (20 %)",
        "row 4 ✕ wrongly bad pass 0.125 5.000 red 1.25 missing True row 17 ✓ rightly bad stop",
        "missing",
        "600 then, 700 now (+100)",
        "Columns retyped: flag (number, feature → boolean, feature)",
        "new values: mauve",
        "moved much",
        "1 of 2 features moved more than sampling explains",
        "Looks at these rows before",
        "0.0700 [0.0500, 0.0900] the other way round",
    ):
        assert shown in text, shown


def test_three_classes_have_a_slider_over_the_dearest_ones_costs(opened: webdriver.Chrome, tmp_path: Path, read: dict[str, Any]) -> None:
    U = np.array([[0.0, -1.0, -2.0, -0.5], [-2.0, 0.0, -1.0, -0.5], [-9.0, -4.0, 0.0, -0.5]])
    given = measured(read, rows=900, U=U, classes=["a", "b", "c"], actions=["x", "y", "z", "refer"])
    show(opened, tmp_path, given)
    before = [cell(opened, f"challenger-2-{a}") for a in range(4)]
    slider = focus(opened, "ratio")
    assert slider.get_attribute("aria-valuetext") == "× 1"
    slider.send_keys(Keys.END)
    assert cell(opened, "size") == "× 20"
    after = [cell(opened, f"challenger-2-{a}") for a in range(4)]
    assert before != after and sum(map(int, before)) == sum(map(int, after)) == given["evaluation"]["prevalence"][2]
    assert "Factor on all costs of errors on c" in opened.find_element(By.ID, "costs").text
    assert opened.get_log("browser") == []


@pytest.mark.parametrize("weighted", [False, True])
def test_two_hundred_thousand_rows_make_a_small_page(
    opened: webdriver.Chrome, tmp_path: Path, read: dict[str, Any], weighted: bool
) -> None:
    U = np.array([[0.0, -1.0], [-5.0, 0.0]])
    given = measured(
        read, rows=200_000 if not weighted else 2_000, U=U, classes=["good", "bad"], actions=["pass", "stop"], weighted=weighted
    )
    path = show(opened, tmp_path, full(given))
    assert path.stat().st_size < 500_000
    focus(opened, "ratio").send_keys(Keys.ARROW_LEFT)
    shown = [cell(opened, f"champion-{k}-{a}").replace(",", "") for k in (0, 1) for a in (0, 1)]
    assert all(("." in value) == weighted for value in shown)
    found = given["curves"]["operating"]
    assert sum(map(float, shown)) == pytest.approx(np.sum(found["models"]["champion"][0]["counts"]), abs=0.3)


def test_mlflows_artifact_viewer_shows_the_page_with_a_working_slider(
    opened: webdriver.Chrome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: dict[str, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    path, port, store_uri = show(opened, tmp_path, full(read)), free_port(), f"sqlite:///{tmp_path}/mlflow.db"
    with mlflow_server(port, store_uri) as address:
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=store_uri)
        run_id = client.create_run(client.create_experiment("review", artifact_location=(tmp_path / "artifacts").as_uri())).info.run_id
        client.log_artifact(run_id, str(path), "report")
        experiment = client.get_run(run_id).info.experiment_id
        opened.get(f"{address}/#/experiments/{experiment}/runs/{run_id}/artifacts/report/review.html")
        frame = WebDriverWait(opened, 60).until(lambda driver: driver.find_element(By.CSS_SELECTOR, "iframe.mlflow-html-iframe"))
        assert frame.get_attribute("sandbox") == "allow-scripts"
        opened.switch_to.frame(frame)
        try:
            slider = WebDriverWait(opened, 30).until(lambda driver: driver.find_element(By.ID, "ratio"))
            slider.send_keys(Keys.HOME)
            assert cell(opened, "size") == "1 : 50"
            opened.find_element(By.ID, "theme").send_keys(Keys.ENTER)
            assert opened.execute_script("return document.documentElement.dataset.theme") == "dark"
        finally:
            opened.switch_to.default_content()


def test_many_classes_show_the_moved_class_and_all_others_together(opened: webdriver.Chrome, tmp_path: Path, read: dict[str, Any]) -> None:
    names = [f"class {k}" for k in range(10)]
    U = 3 * np.eye(10) - 1
    U[7] = U[7] * 4
    given = measured(read, rows=2000, U=U, classes=names, actions=names)
    show(opened, tmp_path, given)
    focus(opened, "ratio").send_keys(Keys.END)
    found = given["curves"]["operating"]["models"]["challenger"][-1]["counts"]
    assert given["curves"]["operating"]["label"] == "class 7"
    assert cell(opened, "challenger-7-7") == str(found[7][7])
    assert cell(opened, "challenger-rest-7") == f"{sum(row[7] for row in found) - found[7][7]:,}"
    assert len(opened.find_elements(By.CSS_SELECTOR, ".moved tbody tr")) == 23
