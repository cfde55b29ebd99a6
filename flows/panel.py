"""The closing panel of a retraining: tables for the terminal, and the same as markdown for Prefect's page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipelines import store
from pipelines.commands.publish import Outcome

COLOURS = {"PASS": "green", "FAIL": "red", "INSUFFICIENT_DATA": "yellow", "ERROR": "red"}


@dataclass(frozen=True)
class Section:
    """A heading with rows of cells under a head, or with sentences."""

    title: str
    head: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    lines: tuple[str, ...] = ()


def read_panel() -> dict[str, Any]:
    """What the stage report wrote for the panel."""
    return dict(store.read_json(store.stage_path("report", "panel.json")))


def sections(outcome: Outcome, read: dict[str, Any], data_digest: str | None) -> list[Section]:
    """The panel's content, in the order in which it is shown."""
    return [
        _data(read, data_digest),
        _utility(read),
        _calibration(read),
        _policy(read),
        *_constraints(read),
        _verdict(outcome),
        _version(outcome, read),
        _next(outcome),
    ]


def _data(read: dict[str, Any], digest: str | None) -> Section:
    classes = read["classes"]
    rows = tuple((part["part"], f"{part['rows']:,}", *(f"{part['per_class'][name]:,}" for name in classes)) for part in read["parts"])
    excluded = f", {read['excluded']:,} left out as duplicates of rows in later parts" if read.get("excluded") else ""
    said = f"version {str(digest)[:12]}: {read['rows']:,} rows, target {read['target']}{excluded}"
    return Section("Data", ("part", "rows", *classes), rows, tuple(filter(None, (read.get("pooled"), read.get("learners"), said))))


def _utility(read: dict[str, Any]) -> Section:
    level = f"{100 * read['confidence']:g} % interval"
    rows = tuple((item["policy"], _number(item["mean"]), f"[{_number(item['low'])}, {_number(item['high'])}]") for item in read["utility"])
    rows_counted, effective = read["holdout"]["rows"], read["holdout"]["effective_rows"]
    weighted = (
        (f"{rows_counted} rows of unequal weight, worth {effective:.1f} equal ones",) if abs(effective - rows_counted) >= 0.05 else ()
    )
    title = f"Expected utility per case on the holdout ({read['unit']}, higher is better)"
    return Section(title, ("policy", "mean", level), rows, weighted)


def _calibration(read: dict[str, Any]) -> Section:
    found = read["calibration"]
    rows = tuple(
        (label, *(_number((found[name].get(key) or {}).get("mean"), 4) for key in ("log_loss", "brier", "ece")))
        for name, label in (("before", "as trained"), ("after", f"cross-fitted choice; ships: {found['method']}"))
    )
    lines = (f"calib: {found['sentence']}", f"holdout: {found['holdout']}", found["why"])
    return Section("Calibration on calib, cross-fitted", ("probabilities", "log loss", "Brier", "ECE"), rows, lines)


def _policy(read: dict[str, Any]) -> Section:
    found, thresholds = read["policy"], read["policy"].get("thresholds")
    threshold = found.get("threshold")
    cut = f": act when the probability of {read['classes'][-1]} is above {threshold:.4g}" if isinstance(threshold, int | float) else ""
    lines = [f"{found['chosen']}{cut}", found["why"]]
    if thresholds:
        exact = thresholds["exact"] or {}
        known = [_number(exact.get(name)) for name in ("value", "low", "high")]
        lines.append(f"analytic threshold {_number(thresholds['analytic'])}, exact {known[0]}, its interval {known[1]} to {known[2]}")
    prior = read.get("prior")
    if prior:
        shares = ", ".join(f"{name} {100 * value:.3g} %" for name, value in prior["deployment"].items())
        lines.append(f"declared class shares: {shares}")
    return Section("Policy", lines=tuple(lines))


def _constraints(read: dict[str, Any]) -> list[Section]:
    """Limits and requirements with what the holdout shows; no section where none was declared."""
    level = f"{100 * read['confidence']:g} % interval"
    rows = tuple(
        (item["what"], item["wanted"], _number(measured["mean"]), f"[{_number(measured['low'])}, {_number(measured['high'])}]")
        for item in read["constraints"]
        for measured in (item["measured"],)
    )
    return [Section("Limits and requirements on the holdout", ("", "wanted", "measured", level), rows)] if rows else []


def _verdict(outcome: Outcome) -> Section:
    title = "identical to the champion" if outcome.identical else outcome.verdict
    looks = (f"Looks at these holdout rows so far: {outcome.looks}.",) if outcome.looks else ()
    return Section(f"Verdict: {title}", lines=(*outcome.reasons, *looks))


def _brief(read: dict[str, Any]) -> list[Section]:
    """What the review page says, in short."""
    return [
        Section(part["title"], tuple(part["head"]) if part["rows"] else (), tuple(map(tuple, part["rows"])), tuple(part["lines"]))
        for part in read.get("brief") or []
    ]


def _version(outcome: Outcome, read: dict[str, Any]) -> Section:
    champion = read.get("champion") or {}
    if outcome.identical:
        return Section("Version", lines=(f"Nothing was registered; version {champion.get('version')} stays champion.",))
    if outcome.version is None:
        return Section("Version", lines=("Nothing was registered or promoted: this was a dry run.",))
    aliases = "challenger, champion" if outcome.promoted else "challenger"
    known = "" if outcome.created else ", registered before"
    stays = f"The champion stays version {champion['version']}." if champion.get("version") else "No champion reigns."
    lines = (f"version {outcome.version} ({aliases}){known}", *(() if outcome.promoted else (stays,)))
    return Section("Version", lines=lines)


def _next(outcome: Outcome) -> Section:
    score = "expost predict new.csv scored.csv"
    commands = [(score, "score new rows with the champion")]
    if outcome.blocked:
        commands = [("expost status", "who reigns, and why")]
        if outcome.verdict == "INSUFFICIENT_DATA" and outcome.version is not None:
            commands.append((f"{score} --version {outcome.version}", "score with this version"))
    if outcome.waiting:
        who = "--by NAME --why TEXT"
        commands = [
            (f"expost review {outcome.version}", "what speaks for it and against it"),
            (f"expost promote {outcome.version} {who}", "let it reign"),
            (f"expost reject {outcome.version} {who}", "or not"),
        ]
    commands.append(("make ui", "runs, plots, model card"))
    width = max(len(command) for command, _ in commands) + 3
    return Section("Next", lines=tuple(f"{command:<{width}}{said}" for command, said in commands))


def _number(value: float | None, digits: int = 3) -> str:
    return "n/a" if value is None else f"{value:z.{digits}f}"


def markdown(outcome: Outcome, data_digest: str | None) -> str:
    """The panel as markdown, for Prefect's artifact, with criteria, slices, lessons and changes of the data as tables."""
    lines, read = ["# Retraining", ""], read_panel()
    for section in [*sections(outcome, read, data_digest), *_brief(read)]:
        lines += [f"## {section.title}", ""]
        if section.head:
            lines += [_row(section.head), "|" + " --- |" * len(section.head), *map(_row, section.rows), ""]
        lines += [f"- {_plain(line)}" for line in section.lines] + [""]
    return "\n".join([*lines, *([f"[The run in MLflow]({outcome.url})"] if outcome.url else [])])


def _row(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(_plain(cell) for cell in cells) + " |"


def _plain(text: str) -> str:
    """Text that cannot become a table's border or markup: names come from the data."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def show(outcome: Outcome, data_digest: str | None, *, title: str, seconds: float, server_seconds: float) -> None:
    """Print the panel under `title`, the command that was run."""
    from rich.console import Console, Group
    from rich.markup import escape
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    parts: list[Any] = []
    for section in sections(outcome, read_panel(), data_digest):
        parts.append(Text(("\n" if parts else "") + section.title, style="bold"))
        if section.head:
            table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
            for number, name in enumerate(section.head):
                table.add_column(escape(name), justify="right" if number else "left", style=None, header_style="dim")
            for row in section.rows:
                table.add_row(*map(escape, row))
            parts.append(table)
        parts += [Text(line) for line in section.lines]
    style = "green" if outcome.identical else COLOURS.get(outcome.verdict, "white")
    said = f"{seconds:.0f} s, Prefect's server start {server_seconds:.0f} s"
    console = Console()
    console.print(Panel(Group(*parts), title=title, subtitle=said, border_style=style, padding=(1, 2), expand=False))
    if outcome.url:
        console.print(f"MLflow's page of the run (after `make ui`): {outcome.url}", soft_wrap=True, highlight=False)
