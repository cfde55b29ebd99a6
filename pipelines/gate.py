"""Judge the challenger from what evaluate wrote; every verdict that could be written is exit code 0."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines import store
from pipelines.core import gate
from pipelines.core.gate import Constraint, Evidence, Results, Settings, Verdict
from pipelines.params import load
from pipelines.params.gate import Gate

if TYPE_CHECKING:
    import polars as pl

Floats = NDArray[np.float64]
#: How far a row's probabilities may sum from one: float32 rounding, not more.
SUM_TOLERANCE = 1e-5


def settings_of(params: Gate) -> Settings:
    """The section `gate` as the pure gate takes it."""
    return Settings(
        params.alpha,
        params.margin,
        params.material.model_dump(),
        params.bootstrap.beats_trivial,
        params.bootstrap.max_log_loss_ratio,
    )


def column(frame: pl.DataFrame, name: str) -> Floats | None:
    """A numeric column `(n,)` with nulls as NaN; None where there is none."""
    import polars as pl

    if name not in frame.columns or not frame[name].dtype.is_numeric():
        return None
    return np.asarray(frame[name].cast(pl.Float64).fill_null(np.nan).to_numpy())


def results(frame: pl.DataFrame, prefix: str) -> Results:
    """The four compared columns of one model."""
    return Results(*(column(frame, f"{prefix}_{name}") for name in ("utility", "log_loss", "brier", "v_information")))


def invalid(frame: pl.DataFrame, prefix: str, classes: list[str], actions: list[str]) -> list[str]:
    """What is wrong with a model's probabilities and actions, as clauses."""
    import polars as pl

    columns = [column(frame, f"{prefix}_probability_{name}") for name in classes]
    absent = [name for name, values in zip(classes, columns, strict=True) if values is None]
    if absent:
        return [f"the {prefix}'s probability of {', '.join(map(repr, absent))} is missing"]
    probability = np.column_stack([values for values in columns if values is not None])
    wrong = []
    good = np.isfinite(probability).all(axis=1)
    good &= np.where(good, (np.abs(np.nan_to_num(probability).sum(axis=1) - 1) <= SUM_TOLERANCE), False)
    good &= ((probability >= 0) & (probability <= 1 + SUM_TOLERANCE)).all(axis=1)
    if not good.all():
        wrong.append(f"the {prefix}'s probabilities are no distribution in {int((~good).sum())} rows")
    taken = frame[f"{prefix}_action"] if f"{prefix}_action" in frame.columns else pl.Series([None] * frame.height, dtype=pl.String)
    unknown = int((~taken.is_in(actions).fill_null(False)).sum())
    if unknown:
        wrong.append(f"the {prefix}'s action is missing or unknown in {unknown} rows")
    return wrong


def evidence_of(frame: pl.DataFrame, evaluation: dict[str, Any], champion: dict[str, Any]) -> Evidence:
    """The rows to compare, those that were holdout for both models, with all that the verdict rests on."""
    classes, reach = tuple(evaluation["classes"]), evaluation.get("reach")
    compared = champion["state"] == "champion"
    wrong = list(evaluation.get("broken") or mismatches(evaluation, champion))
    if not isinstance(reach, int | float) or not math.isfinite(reach):
        wrong.append("the largest difference of two actions on one row is missing")
    unavailable = dict(evaluation.get("unavailable") or {})
    kept, comparator = constraints_of(frame, evaluation), evaluation.get("comparator") or {}
    if compared and "champion_action" in frame.columns:
        # A row not shared is null in every column of the champion; one with any value left is compared, and its gaps are errors.
        theirs = [frame[name].is_not_null().to_numpy() for name in frame.columns if name.startswith("champion_")]
        wrong += invalid(frame.filter(np.any(theirs, axis=0)), "champion", list(classes), evaluation["actions"])
        frame = frame.filter(np.any(theirs, axis=0))
    elif compared and not unavailable:
        wrong.append("the champion's rows are missing")
    wrong += invalid(frame, "challenger", list(classes), evaluation["actions"])
    known = {name: code for code, name in enumerate(classes)}
    weights, groups = weights_of(frame, wrong), frame["group"].to_numpy()
    labels = np.array([known.get(name, -1) for name in frame["label"].to_list()], dtype=np.int64)
    if (labels < 0).any():
        wrong.append(f"{int((labels < 0).sum())} rows have an unknown class")
        labels = np.maximum(labels, 0)
    return Evidence(
        challenger=results(frame, "challenger"),
        champion=results(frame, "champion") if compared else None,
        labels=labels,
        classes=classes,
        reach=float(reach or 0.0),
        groups=groups,
        champion_gain=(evaluation.get("champion_gain") or {}).get("gain"),
        reference_utility=column(frame, "trivial_utility"),
        reference_log_loss=column(frame, "prior_log_loss"),
        unit=evaluation["unit"],
        unavailable=unavailable,
        invalid=tuple(wrong),
        weights=weights,
        constraints=kept,
        comparison=comparator.get("sentence", ""),
        comparable=comparator.get("possible", True) is not False,
    )


def weights_of(frame: pl.DataFrame, wrong: list[str]) -> Floats | None:
    """Weights `(n,)` of the rows, None where they are equal; what is wrong with them is added to `wrong`."""
    weights = column(frame, "weight")
    if weights is None or not (np.isfinite(weights) & (weights > 0)).all():
        wrong.append("the rows' weights are missing" if weights is None else "a row's weight is no number above 0")
        return None
    return None if not weights.size or (weights == weights[0]).all() else weights


def constraints_of(frame: pl.DataFrame, evaluation: dict[str, Any]) -> tuple[Constraint, ...]:
    """The limits and requirements that the evaluation lists, with the challenger's rows that tell of them."""
    made, ignored = [], list[str]()
    for item in evaluation.get("limits") or ():
        taken = frame["challenger_action"] if "challenger_action" in frame.columns else None
        values = None if taken is None else column(taken.eq(item["action"]).cast(float).to_frame("taken"), "taken")
        made.append(Constraint("limit", item["action"], item["at_most"], values, frame["group"].to_numpy(), weights_of(frame, ignored)))
    for item in evaluation.get("requirements") or ():
        rows = frame.filter(frame["label"] == item["class"])
        values = column(rows, "challenger_right")
        made.append(Constraint("requirement", item["class"], item["at_least"], values, rows["group"].to_numpy(), weights_of(rows, ignored)))
    return tuple(made)


def mismatches(evaluation: dict[str, Any], champion: dict[str, Any]) -> list[str]:
    """Why the evaluation does not belong to the champion that reigns now, as clauses."""
    found = evaluation["digests"]["champion"]
    if champion["state"] != "champion":
        return [] if found is None else ["the evaluation compared with a champion, but none reigns"]
    if found is None or found["bundle_sha256"] != champion["bundle_sha256"]:
        return ["the evaluation compared with another champion than the one that reigns"]
    return []


def verdict_of(frame: pl.DataFrame, evaluation: dict[str, Any], champion: dict[str, Any], settings: Settings) -> Verdict:
    """The verdict on what evaluate wrote."""
    if evaluation["identical"] and not mismatches(evaluation, champion):
        return gate.identical(f"version {champion.get('version')}, equal digests of weights and policy")
    return gate.judge(evidence_of(frame, evaluation, champion), settings)


def main() -> None:
    """Write data/gate/verdict.json."""
    import polars as pl

    settings = settings_of(load(Gate))
    evaluation, champion = (
        store.read_json(store.stage_path("evaluate", "evaluation.json")),
        store.read_json(store.stage_path("champion", "status.json")),
    )
    frame = pl.read_parquet(store.need(store.stage_path("evaluate", "rows.parquet")))
    verdict = verdict_of(frame, evaluation, champion, settings)
    names = ("state", "version", "epoch", "bundle_sha256", "weights_sha256", "policy_sha256")
    with store.stage_folder("gate") as out:
        store.write_json(
            out / "verdict.json",
            {
                **asdict(verdict),
                "unit": evaluation["unit"],
                "challenger": evaluation["digests"]["challenger"],
                "champion": {name: champion.get(name) for name in names},
            },
        )
    print(f"verdict: {verdict.verdict}")
    for reason in verdict.reasons:
        print(f"  {reason}")


if __name__ == "__main__":
    store.run_stage(main)
