"""What `expost retune` does to `params.yaml`: another utility, checked whole before the file is touched, in the place of the old one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from pipelines import store
from pipelines.commands.check import check_params
from pipelines.commands.costs import about, utility_from, with_costs
from pipelines.commands.paramsfile import render_section
from pipelines.errors import must
from pipelines.params import PARAMS, load, parse, read_params
from pipelines.params.ingest import Ingest
from pipelines.params.utility import Utility


def wanted(file: Path | None, cost_fn: float | str | None, cost_fp: float | str | None) -> Utility | None:
    """The utility that the options ask for, None where they ask for none; raises ExpostError where it breaks a rule of params.yaml."""
    costs = cost_fn is not None or cost_fp is not None
    if file is not None and costs:
        raise must("costs must come from one place", "both --utility and --cost-fn or --cost-fp are given", "Leave one of them out.")
    if file is None and not costs:
        return None
    ingest = load(Ingest)
    classes = ingest.classes
    utility = with_costs(load(Utility), classes, cost_fn, cost_fp, [*ingest.columns]) if file is None else utility_from(file, classes)
    check_params({**read_params(), "utility": plain(utility)})
    return utility


def plain(utility: Utility) -> dict[str, Any]:
    """The utility as plain types, as it stands in params.yaml."""
    return utility.model_dump(mode="json")


@contextmanager
def replaced(values: dict[str, Any] | None) -> Iterator[None]:
    """Put the utility `values` (plain types) into params.yaml, and take it back where the block fails; None leaves the file alone.

    Raises ExpostError, the file as it was, where the utility breaks a rule.
    """
    utility = None if values is None else parse(Utility, values, "utility")
    if utility is None or utility == load(Utility):
        yield
        return
    check_params({**read_params(), "utility": plain(utility)})
    before = PARAMS.read_bytes()
    after = with_utility(before.decode("utf-8"), utility).encode("utf-8")
    _write(after)
    try:
        yield
    except BaseException:
        if PARAMS.read_bytes() == after:  # else someone has changed it meanwhile
            _write(before)
        raise


def _write(content: bytes) -> None:
    with store.atomic_file(PARAMS) as temporary:
        temporary.write_bytes(content)


def with_utility(text: str, utility: Utility) -> str:
    """The text of params.yaml with another section `utility`; the rest, comments and line ends included, stays to the byte."""
    lines = text.splitlines(keepends=True)
    end_of_line = "\r\n" if lines[0].endswith("\r\n") else "\n"
    start, stop = _lines_of("utility", text, lines)
    section = render_section("utility", utility, about(utility)).replace("\n", end_of_line)
    made = "".join([*lines[:start], section, *lines[stop:]])
    if _is_same_but_for_the_utility(text, made, utility):
        return made
    rule = "params.yaml must hold the section utility as a block of its own lines to be replaced there"
    raise must(rule, "it is written in another way", "Change utility in params.yaml yourself, then run `expost retune`.")


def _lines_of(section: str, text: str, lines: list[str]) -> tuple[int, int]:
    """First line of a section and the line after its last one; comments and blank lines before the next section belong to that one."""
    root = yaml.compose(text, yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    key, value = next((key, value) for key, value in root.value if key.value == section)
    start, end = key.start_mark.line, value.end_mark
    stop = end.line + (end.column > 0)
    while stop > start + 1 and (not lines[stop - 1].strip() or lines[stop - 1].startswith("#")):
        stop -= 1
    return start, stop


def _is_same_but_for_the_utility(text: str, made: str, utility: Utility) -> bool:
    try:
        before, after = (yaml.safe_load(each) for each in (text, made))
    except yaml.YAMLError:
        return False
    return bool(after == {**before, "utility": after.get("utility")} and parse(Utility, after["utility"], "utility") == utility)
