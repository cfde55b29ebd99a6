"""Judge the challenger from what evaluate wrote; every verdict that could be written is exit code 0."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines import looks, store
from pipelines.core import gate
from pipelines.core.evidence import Constraint, Evidence, Results, Rival, Settings, Slice, Verdict
from pipelines.errors import must
from pipelines.params import load
from pipelines.params.gate import Gate
from pipelines.params.utility import Utility

if TYPE_CHECKING:
    import polars as pl

Floats = NDArray[np.float64]
ROWS = store.stage_path("evaluate", "rows.parquet")
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
        superiority=params.objective == "superiority",
        slope=(params.calibration.slope[0], params.calibration.slope[1]),
        intercept=(params.calibration.intercept[0], params.calibration.intercept[1]),
        min_support=params.min_support,
        flips=params.negative_flips,
        least_rank=params.least_rank,
    )


def gate_sha256(params: Gate) -> str:
    """Digest of the criteria: a verdict holds for these and no others."""
    return hashlib.sha256(json.dumps(params.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


def utility_sha256() -> str:
    """Digest of the utility in params.yaml: a verdict holds under this one and no other."""
    return hashlib.sha256(json.dumps(load(Utility).model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Looked:
    """Earlier looks at the rows `(n,)` of the evaluation, the most that are allowed, and the key of this one."""

    key: str
    before: NDArray[np.int64]
    limit: int


def column(frame: pl.DataFrame, name: str) -> Floats | None:
    """A numeric column `(n,)` with nulls as NaN; None where there is none."""
    import polars as pl

    if name not in frame.columns or not frame[name].dtype.is_numeric():
        return None
    return np.asarray(frame[name].cast(pl.Float64).fill_null(np.nan).to_numpy())


def results(frame: pl.DataFrame, prefix: str, classes: tuple[str, ...]) -> Results:
    """The compared columns of one model."""
    names = ("utility", "log_loss", "brier", "v_information", "right", "knn")
    made = Results(*(column(frame, f"{prefix}_{name}") for name in names))
    probability = [column(frame, f"{prefix}_probability_{name}") for name in classes]
    known = [values for values in probability if values is not None]
    return replace(made, probability=np.column_stack(known)) if len(known) == len(classes) else made


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


def widest(frame: pl.DataFrame) -> float:
    """A bound on the difference of any two utilities in the rows."""
    seen = [frame[name].to_numpy() for name, kind in frame.schema.items() if name.endswith("_utility") and kind.is_float()]
    return 2 * max((float(np.abs(values[np.isfinite(values)]).max(initial=0.0)) for values in seen), default=0.0)


def evidence_of(frame: pl.DataFrame, evaluation: dict[str, Any], champion: dict[str, Any], looked: Looked | None = None) -> Evidence:
    """The rows to compare, those that were holdout for both models and not looked at too often, with all that the verdict rests on."""
    classes, reach = tuple(evaluation["classes"]), evaluation.get("reach")
    compared = champion["state"] == "champion"
    wrong = list(evaluation.get("broken") or mismatches(evaluation, champion))
    if not isinstance(reach, int | float) or not math.isfinite(reach):
        wrong.append("the largest difference of two actions on one row is missing")
        reach = widest(frame)  # the verdict is ERROR; the figures are still shown
    unavailable = dict(evaluation.get("unavailable") or {})
    kept, comparator = constraints_of(frame, evaluation), evaluation.get("comparator") or {}
    shared, before = shares(frame, "champion"), np.zeros(frame.height, dtype=np.int64) if looked is None else looked.before
    fresh = np.ones(frame.height, dtype=bool) if looked is None else before < looked.limit
    if compared and "champion_action" in frame.columns:
        wrong += invalid(frame.filter(shared & fresh), "champion", list(classes), evaluation["actions"])
    elif compared and not unavailable:
        wrong.append("the champion's rows are missing")
    if not compared or "champion_action" not in frame.columns:
        shared = np.ones(frame.height, dtype=bool)
    kept_rows, retired = shared & fresh, int((shared & ~fresh).sum())
    frame, before = frame.filter(kept_rows), before[kept_rows]
    wrong += invalid(frame, "challenger", list(classes), evaluation["actions"])
    known = {name: code for code, name in enumerate(classes)}
    weights, groups = weights_of(frame, wrong), frame["group"].to_numpy()
    labels = np.array([known.get(name, -1) for name in frame["label"].to_list()], dtype=np.int64)
    if (labels < 0).any():
        wrong.append(f"{int((labels < 0).sum())} rows have an unknown class")
        labels = np.maximum(labels, 0)
    return Evidence(
        challenger=results(frame, "challenger", classes),
        champion=results(frame, "champion", classes) if compared else None,
        labels=labels,
        classes=classes,
        reach=float(reach),
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
        gain_error=number((evaluation.get("champion_gain") or {}).get("error")),
        redecided=rival(frame, evaluation),
        first=column(frame, "first_utility"),
        first_rows=shares(frame, "first") if "first_utility" in frame.columns else None,
        slices=slices_of(frame, evaluation),
        looks=int(before.max(initial=0)),
        retired=retired,
        ranks=ranks_of(evaluation) if compared else None,
    )


def ranks_of(evaluation: dict[str, Any]) -> tuple[float, float] | None:
    """Effective ranks of both embeddings on the holdout; None where a model was not scored."""
    models = [evaluation.get("challenger"), evaluation.get("champion")]
    if not all(models):
        return None
    ours, theirs = (number((model or {}).get("effective_rank")) for model in models)
    return ours, theirs


def shares(frame: pl.DataFrame, prefix: str) -> NDArray[np.bool_]:
    """Rows `(n,)` that a model has results for: one not shared is null in all its columns, one with any value left is compared."""
    columns = [frame[name].is_not_null().to_numpy() for name in frame.columns if name.startswith(f"{prefix}_")]
    return np.any(columns, axis=0) if columns else np.zeros(frame.height, dtype=bool)


def number(value: Any) -> float:
    """A number of a JSON file, NaN where it is none: what is missing must not pass."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def rival(frame: pl.DataFrame, evaluation: dict[str, Any]) -> Rival | None:
    """The champion re-decided by the challenger's procedure, where the evaluation says that it was."""
    if not evaluation.get("redecided"):
        return None
    return Rival(column(frame, "redecided_utility"), column(frame, "redecided_right"))


def slices_of(frame: pl.DataFrame, evaluation: dict[str, Any]) -> tuple[Slice, ...]:
    """The slices and lessons that the evaluation lists, with their masks; raises ExpostError where a mask is missing."""
    made = []
    for position, item in enumerate(evaluation.get("slices") or ()):
        name = f"slice_{position}"
        if name not in frame.columns:
            raise must(f"{ROWS} must have the column {name} of slice {item['name']!r}", "it is missing", "Run `dvc repro evaluate`.")
        mask = frame[name].fill_null(False).to_numpy().astype(bool)
        made.append(Slice("slice" if item["kind"] == "declared" else "lesson", item["name"], mask))
    return tuple(made)


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


def verdict_of(
    frame: pl.DataFrame, evaluation: dict[str, Any], champion: dict[str, Any], settings: Settings, looked: Looked | None = None
) -> tuple[Verdict, Evidence | None]:
    """The verdict on what evaluate wrote, and the evidence that it rests on; none where both models are the same."""
    if evaluation["identical"] and not mismatches(evaluation, champion):
        return gate.identical(f"version {champion.get('version')}, equal digests of weights and policy"), None
    evidence = evidence_of(frame, evaluation, champion, looked)
    return gate.judge(evidence, settings), evidence


def main() -> None:
    """Write data/gate/verdict.json, and note the look at the holdout."""
    import polars as pl

    params = load(Gate)
    settings, criteria = settings_of(params), gate_sha256(params)
    folder = store.stage_path("champion")
    evaluation, champion = store.read_json(store.stage_path("evaluate", "evaluation.json")), store.read_json(folder / "status.json")
    frame = pl.read_parquet(store.need(ROWS))
    rows_sha256, hashes = store.sha256(ROWS), looks.hashes_of(frame)
    key = looks.key_of(rows_sha256, criteria)
    looked = Looked(key, looks.before(key, hashes, folder), params.max_looks)
    verdict, evidence = verdict_of(frame, evaluation, champion, settings, looked)
    names = ("state", "version", "epoch", "bundle_sha256", "weights_sha256", "policy_sha256")
    if evidence is not None:
        looks.note(key, hashes)
        looks.settle(looks.key_of(rows_sha256, looks.SHOWN))  # evaluate's note of the same rows: both are one look
    with store.stage_folder("gate") as out:
        store.write_json(
            out / "verdict.json",
            {
                **asdict(verdict),
                "unit": evaluation["unit"],
                "challenger": evaluation["digests"]["challenger"],
                "champion": {name: champion.get(name) for name in names},
                "data_sha256": evaluation.get("data_sha256"),
                "gate_sha256": criteria,
                "utility_sha256": utility_sha256(),
                "evaluation_key": key,
                "looks": None
                if evidence is None
                else {
                    "before": evidence.looks,
                    "alpha": settings.level(evidence.looks),
                    "retired_rows": evidence.retired,
                    "limit": params.max_looks,
                },
            },
        )
    print(f"verdict: {verdict.verdict}")
    for reason in verdict.reasons:
        print(f"  {reason}")


if __name__ == "__main__":
    store.run_stage(main)
