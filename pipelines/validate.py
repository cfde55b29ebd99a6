"""Stage `validate`: expectations over the ingested table, and the checks that no suite asks for. The only importer of great_expectations."""

from __future__ import annotations

import itertools
import logging
import re
import shutil
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipelines import store
from pipelines.datachecks import SAMPLE, Check, repeated, table_checks
from pipelines.errors import ExpostError, must
from pipelines.params import load
from pipelines.params.validate import Validate
from pipelines.suite import SUITE, nearest, read_suite, short, without_ignored

TABLE = store.stage_path("ingest", "table.parquet")
#: A failed stage leaves no outputs, so the page of a failed run lies here; git-ignored.
FAILED = Path(".expost/failed_validation")
#: Violated expectations shown in full.
SHOWN = 10

_ACCEPT = "; where the data is right, `expost expectations accept` takes the new ranges over after review"
#: Replaces the style sheets and scripts that the page would fetch: it is read as a file, offline.
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #222; background: #fff; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1.5rem; } td, th { border: 1px solid #ddd; padding: .3rem .6rem;
text-align: left; vertical-align: top; } .navbar, .sidebar-sticky, #page-action-card, .ge-cta-footer, footer, button, .modal
{ display: none; } .fa-check-circle::before { content: "\\2713"; color: #17803d; } .fa-times::before, .fa-exclamation-triangle::before
{ content: "\\2717"; color: #b91c1c; } .hide { display: none; }
"""


def main() -> None:
    """Check `data/ingest/table.parquet`; raises ExpostError listing every violated check, then writes nothing under `data/validate`."""
    options, suite = load(Validate), read_suite()
    table, schema = read_table(), store.read_json(store.stage_path("ingest", "schema.json"))
    suite, ignored = without_ignored(suite, table.columns)
    if ignored:
        print(f"left out, for they have the role ignored now: the generated expectations of {', '.join(ignored)}")
    checks = table_checks(table, schema, allow_separating=options.allow_separating, allow_look_alikes=options.allow_look_alikes)
    outcome = run_suite(suite, table)
    checks = sorted(checks, key=lambda check: check.ok) + [_as_check(result, table.columns) for result in outcome.results]
    page = data_docs(outcome)
    if violated := [check for check in checks if not check.ok]:
        shutil.rmtree(FAILED, ignore_errors=True)
        with store.atomic_file(FAILED / "index.html") as path:
            path.write_text(page, encoding="utf-8")
        raise ExpostError(message(violated, len(checks)))
    shutil.rmtree(FAILED, ignore_errors=True)
    with store.stage_folder("validate") as out:
        (out / "data_docs").mkdir()
        (out / "data_docs" / "index.html").write_text(page, encoding="utf-8")
        store.write_json(out / "result.json", {"success": True, "checks": [_listed(check) for check in checks]})


def read_table() -> Any:
    """Read the ingested table (polars); raises ExpostError where it has no rows or a name stands twice."""
    import polars as pl
    import pyarrow.parquet as pq

    names = pq.read_schema(store.need(TABLE)).names
    if twice := repeated(names):
        raise must(
            "column names must be distinct, also to a reader",
            f"{', '.join(map(repr, sorted(set(twice))))} stand twice",
            "Rename them in the source.",
        )
    table = pl.read_parquet(TABLE)
    if not len(table):
        raise must(
            "the table must have rows", f"{TABLE} has none, which most expectations would pass", "Look at ingest.source and ingest.where."
        )
    return table


def run_suite(suite: dict[str, Any], table: Any) -> Any:
    """Run `suite` over the polars `table` in an ephemeral context; the GX result, in the order of the suite, with plain JSON values.

    Expectations of one column see that column only: GX copies the whole frame for each, and takes columns `b` and `B` for one.
    """
    logging.getLogger("great_expectations").setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import great_expectations as gx

        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = {"globally": False, "metric_calculations": False}
        definition = context.data_sources.add_pandas("data").add_dataframe_asset("table").add_batch_definition_whole_dataframe("table")
        groups: dict[str | None, list[Any]] = {}
        for number, item in enumerate(suite["expectations"]):
            groups.setdefault(_only_column(item, table.columns), []).append(_expectation(item, number))
        results: list[Any] = []
        for column, expectations in groups.items():
            frame = (table if column is None else table.select(column)).to_pandas()
            built = gx.ExpectationSuite(name=str(suite.get("name", "expectations")), expectations=expectations)
            batch = definition.get_batch(batch_parameters={"dataframe": frame})
            results += batch.validate(built, result_format={"result_format": "SUMMARY", "partial_unexpected_count": SAMPLE}).results
    return _whole(sorted(results, key=lambda result: result.expectation_config.meta["position"]), suite)


def _only_column(item: dict[str, Any], columns: list[str]) -> str | None:
    """The column that the expectation is about, or None where it may read others, or where the table lacks it."""
    kwargs = item.get("kwargs", {})
    alone = not {key for key in kwargs if key.startswith("column") and key != "column"} and "row_condition" not in kwargs
    column = kwargs.get("column")
    return column if alone and column in columns else None


def _whole(results: list[Any], suite: dict[str, Any]) -> Any:
    """One result of the whole suite, without the run's time, ids and fingerprint, which would make every page differ."""
    import great_expectations as gx
    from great_expectations.core import ExpectationSuiteValidationResult

    for result in results:
        result.expectation_config.meta.pop("position")
        result.result = _plain(result.result)
    passed = sum(bool(result.success) for result in results)
    counts = {"evaluated": len(results), "successful": passed, "unsuccessful": len(results) - passed}
    return ExpectationSuiteValidationResult(
        success=passed == len(results),
        results=results,
        suite_name=str(suite.get("name", "expectations")),
        statistics={**{f"{name}_expectations": count for name, count in counts.items()}, "success_percent": 100 * passed / len(results)},
        meta={"great_expectations_version": gx.__version__},
    )


def _expectation(item: dict[str, Any], position: int) -> Any:
    """Build one expectation; raises ExpostError where GX does not know its type or refuses its kwargs."""
    import great_expectations.exceptions as gxe
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration
    from great_expectations.expectations.registry import list_registered_expectation_implementations

    kind, known = item["type"], list_registered_expectation_implementations()
    if kind not in known:
        raise must(
            f"expectation {position + 1} of {SUITE} must have a type that Great Expectations knows",
            f"got {kind!r}{nearest(kind, known)}",
            "Mend the type.",
        )
    extra = {key: item[key] for key in ("description", "notes", "severity") if key in item}
    try:
        return ExpectationConfiguration(
            type=kind, kwargs=item.get("kwargs", {}), meta={**(item.get("meta") or {}), "position": position}, **extra
        ).to_domain_obj()
    except (ValueError, TypeError, gxe.GreatExpectationsError) as error:
        reason = " ".join(str(error).split())
        raise must(f"expectation {position + 1} of {SUITE} ({kind}) must be complete", reason, "Mend its kwargs.") from error


def data_docs(outcome: Any) -> str:
    """Render GX's validation page as one file that needs no network and holds no time or random id."""
    from great_expectations.render.renderer.page_renderer import ValidationResultsPageRenderer
    from great_expectations.render.view import DefaultJinjaPageView

    view, numbers = DefaultJinjaPageView(), itertools.count()
    view.env.filters["generate_html_element_uuid"] = lambda prefix=None: f"{prefix or ''}{next(numbers)}"
    view.env.filters["add_data_context_id_to_url"] = lambda url, *_, **__: url
    page = view.render(ValidationResultsPageRenderer(run_info_at_end=True).render(outcome), show_how_to_buttons=False)
    page = re.sub(r"<script\b.*?</script>|<link\b[^>]*>|<img\b[^>]*>|<style>.*?</style>", "", page, flags=re.DOTALL)
    page = re.sub(r"\b[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\b", lambda _: f"id{next(numbers)}", page)
    return page.replace("</head>", f"<style>{_STYLE}</style>\n  </head>", 1)


def _as_check(result: Any, columns: list[str]) -> Check:
    config, column = result.expectation_config, result.expectation_config.kwargs.get("column")
    expectation = config.description or f"{config.type} {short(_arguments(config.kwargs))}"
    if error := _exception(result.exception_info):
        observed = f"the expectation itself failed: {error}"
        if column is not None and column not in columns:
            observed = f"the table has no column {column!r}{nearest(column, columns)}"
        return Check(config.type, column, expectation, observed, False, remedy=f"Mend the expectation in {SUITE}.", error=True)
    found = result.result
    rows = tuple(zip(found.get("partial_unexpected_index_list") or (), found.get("partial_unexpected_list") or (), strict=False))
    # Where a class has become too rare, the rows of the others are no offenders.
    shown = () if (config.meta or {}).get("share_of_class") is not None else rows[:SAMPLE]
    return Check(config.type, column, expectation, _observed(found), bool(result.success), shown)


def _observed(found: dict[str, Any]) -> str:
    if "observed_value" in found:
        return short(found["observed_value"])
    if found.get("unexpected_count") is not None:
        total = found.get("element_count") or 0
        share = found.get("unexpected_percent_total", found.get("unexpected_percent")) or 0.0
        return f"{found['unexpected_count']} of {total} rows offend ({share:.3g} %)"
    return short(found)


def _exception(info: Any) -> str:
    """The message of an exception that GX caught, from either of the two shapes it reports them in, or empty."""
    for item in [info, *(info.values() if isinstance(info, dict) else ())]:
        if isinstance(item, dict) and item.get("raised_exception"):
            return " ".join(str(item.get("exception_message")).split())[:300]
    return ""


def message(violated: list[Check], total: int) -> str:
    """The error of a failed validation: every violated check with column, expectation, observed value and a sample of offending rows."""
    errors = sum(check.error for check in violated)
    what = f"{len(violated)} of {total} checks failed" + (
        f", {errors} of them because the expectation is wrong, not the data" if errors else ""
    )
    lines = [_line(check) for check in violated[:SHOWN]]
    if len(violated) > SHOWN:
        lines.append(f"  - and {len(violated) - SHOWN} more, on the page")
    return (
        f"the data must meet {SUITE} and the data checks, however: {what} (rows of {TABLE} counted from 0):\n"
        + "\n".join(lines)
        + f"\nLook at the data (page of this run: {FAILED / 'index.html'}) and mend the source"
        + (_ACCEPT if any(check.check.startswith("expect_") and not check.error for check in violated) else "")
        + "."
    )


def _line(check: Check) -> str:
    where = "table" if check.column is None else f"column {check.column!r}"
    rows = ", ".join(f"row {row}: {short(value)}" for row, value in check.rows)
    text = f"  - {where}: {check.expectation} [{check.check}], however: {check.observed}"
    return text + (f"; for example {rows}" if rows else "") + "." + (f" {check.remedy}" if check.remedy else "")


def _listed(check: Check) -> dict[str, Any]:
    return {key: value for key, value in asdict(check).items() if key in ("check", "column", "expectation", "observed", "ok")}


def _arguments(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in kwargs.items() if key not in ("column", "batch_id")}


def _plain(value: Any) -> Any:
    """Numpy scalars as Python's, which GX's own renderer needs; NaN stays for the reader."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.item() if hasattr(value, "item") else value


if __name__ == "__main__":
    store.run_stage(main)
