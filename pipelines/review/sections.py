"""The parts of the page around the criteria and the slider, as plain texts and tables: verdict, calibration, slices, lessons, data, provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines import facts
from pipelines.review.criteria import LONGEST, SIGNS, WORDS, figure, short

HEADS = {
    "PASS": "Pass: not worse than what it is compared with",
    "FAIL": "Fail: worse than what it is compared with",
    "INSUFFICIENT_DATA": "Too few rows to tell",
    "ERROR": "Error: it cannot be judged",
}
BY_HAND = "--by NAME --why TEXT"
#: Most of a list that the page shows.
MOST_LISTED, MOST_CASES, MOST_INPUTS = 60, 3, 12
STABLE, NEWS = "stable", {"appeared": "new values", "gone": "no longer seen"}


def verdict(read: Mapping[str, Any]) -> dict[str, Any]:
    """The verdict's head, what to do about it, and the reasons, those that block first."""
    found, champion = read["verdict"], read["champion"]
    state = found["verdict"] if found["verdict"] in WORDS else "ERROR"
    criteria = found.get("criteria") or []
    blocking = [item for item in criteria if item["verdict"] != "PASS" and item.get("gated", True) is not False]
    rest = [item for item in criteria if item not in blocking]
    listed = {item.get("reason") for item in criteria}
    return {
        "state": "SAME" if found["identical"] else state,
        "sign": "=" if found["identical"] else SIGNS[state],
        "head": "Identical to the champion" if found["identical"] else HEADS[state],
        "advice": advice(found, champion),
        "against": against(champion),
        "blocking": [item["reason"] for item in blocking],
        "deciding": [item["reason"] for item in rest if item["criterion"] == "utility"],
        "passing": [item["reason"] for item in rest if item["criterion"] != "utility"],
        "other": [reason for reason in found["reasons"] if reason not in listed],
    }


def against(champion: Mapping[str, Any]) -> str:
    """What the challenger was compared with, in one sentence."""
    return {
        "champion": f"Compared with the champion, version {champion.get('version')}.",
        "none": "No champion reigns: judged by the absolute criteria of a first one.",
        "unsynced": "The champion was never mirrored here: judged as if none reigned.",
    }[champion["state"]]


def advice(found: Mapping[str, Any], champion: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What to do, as sentences each with a command or ""."""
    if found["identical"]:
        return [("Nothing to do: weights and policy are the champion's, nothing was registered.", "")]
    where = "N is this version's number."
    override = (
        "To promote it all the same, which the ledger records as an override:",
        f"expost promote N {BY_HAND} --override",
    )
    if champion["state"] == "unsynced":
        return [("This verdict promotes nothing, since who reigns was not known. Fetch the champion and judge again:", "expost sync")]
    return {
        "PASS": [
            ("Look through this page, then promote it, unless `approval: auto` has done so already (`expost status` says who reigns):", ""),
            (where, f"expost promote N {BY_HAND}"),
            ("Or turn it down:", f"expost reject N {BY_HAND}"),
        ],
        "FAIL": [
            (f"Leave the champion in its place and turn this version down. {where}", f"expost reject N {BY_HAND}"),
            override,
        ],
        "INSUFFICIENT_DATA": [
            (f"The champion stays. {_needed(found)}", ""),
            (f"{override[0]} {where}", override[1]),
        ],
        "ERROR": [("Nothing may be promoted. Mend what is named below, then judge again:", "expost retrain")],
    }.get(found["verdict"], [("Nothing may be promoted: the verdict is unknown.", "")])


def _needed(found: Mapping[str, Any]) -> str:
    needed = [item["rows_needed"] for item in found.get("criteria") or [] if item.get("rows_needed") and item["verdict"] != "PASS"]
    return f"About {max(needed):,} holdout rows are needed to tell; get more rows and retrain." if needed else "Get more rows and retrain."


def tiles(read: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Key figures as (name, value, remark)."""
    evaluation, found = read["evaluation"], read["verdict"]
    unit, rows = evaluation["unit"], evaluation["rows"]
    made = [("Challenger", facts.number((evaluation["challenger"]["utility"] or {}).get("mean")), f"{unit} per case, holdout")]
    if evaluation["champion"]:
        made.append(("Champion", facts.number((evaluation["champion"]["utility"] or {}).get("mean")), f"{unit} per case, same rows"))
    if evaluation["difference"]:
        item = evaluation["difference"]["utility"]
        made.append(("Difference", _signed(item), f"{evaluation['confidence']:.0%} interval {_ends(item)}"))
    else:
        item = evaluation["gain"]
        made.append(("Gain over the best trivial policy", _signed(item), f"{evaluation['confidence']:.0%} interval {_ends(item)}"))
    compared = rows["compared"] if evaluation["champion"] else rows["holdout"]
    classes = ", ".join(f"{count:,} {name}" for name, count in zip(evaluation["classes"], evaluation["prevalence"], strict=True))
    made.append(("Rows compared", f"{compared:,}", f"holdout: {short(classes)}"))
    looks = found.get("looks")
    if looks:
        made.append(("Looks at these rows before", f"{looks['before']:,}", f"limit {looks['limit']:,}; tested at {looks['alpha']:.3g}"))
    return made


def _signed(item: Mapping[str, Any] | None) -> str:
    return "n/a" if not item or item["mean"] is None else f"{item['mean']:+z.3f}"


def _ends(item: Mapping[str, Any] | None) -> str:
    return "n/a" if not item or item["low"] is None else f"{item['low']:+z.3f} to {item['high']:+z.3f}"


def calibration(read: Mapping[str, Any]) -> dict[str, Any]:
    """Sentences and figures of calibration, challenger beside champion."""
    evaluation = read["evaluation"]
    ours, theirs = (evaluation[name] and evaluation[name]["calibration"] for name in ("challenger", "champion"))
    other = facts.reliability(theirs) if theirs else []
    return {
        "sentences": [("challenger", ours["sentence"]), *([("champion", theirs["sentence"])] if theirs else [])],
        "rows": [(name, value, other[at][1] if other else "") for at, (name, value) in enumerate(facts.reliability(ours))],
        "slopes": facts.slopes(read),
        "learners": facts.learners(read),
        "null": f"{facts.number(ours['ece']['null_median'], 4)}, at most {facts.number(ours['ece']['null_high'], 4)}",
    }


def slices(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Slices with support and utility of both models, as texts."""
    return [
        {
            "name": short(item["name"]),
            "kind": item["kind"] + (f", version {item['version']}" if item.get("version") is not None else ""),
            "support": f"{item['support']:,}",
            "compared": f"{item['compared']:,}" if item.get("compared") is not None else "",
            "challenger": figure(item.get("challenger")),
            "champion": figure(item.get("champion")),
            "difference": figure(item.get("difference"), signed=True),
            "regret": figure(item.get("regret")),
        }
        for item in (evaluation.get("slices") or [])[:MOST_LISTED]
    ]


def lessons(found: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Lessons with their example cases, the columns of the condition first."""
    made = []
    for item in ((found or {}).get("lessons") or [])[:MOST_LISTED]:
        named = [condition["column"] for condition in item.get("conditions") or []]
        made.append(
            {
                "name": short(item["name"], 2 * LONGEST),
                "support": f"{item['support']:,}",
                "share": facts.share(item.get("share")),
                "regret": figure(item.get("regret")),
                "cases": cases(item.get("failures") or [], item.get("successes") or [], named),
            }
        )
    return made


def cases(failures: Sequence[Mapping[str, Any]], successes: Sequence[Mapping[str, Any]], first: Sequence[str]) -> dict[str, Any]:
    """Example cases as one table, each failure with the nearest success below it: what was, what was done, some inputs, `first` the first."""
    shown = [(case, False) for case in failures[:MOST_CASES]]
    for case in successes[:MOST_CASES]:
        places = [at for at, (other, right) in enumerate(shown) if not right and other["row"] == case.get("beside")]
        shown.insert(places[0] + 1 if places else len(shown), (case, True))
    names = list(dict.fromkeys([*first, *(name for case, _ in shown for name in case["inputs"])]))
    kept = [name for name in names if any(name in case["inputs"] for case, _ in shown)]
    return {
        "columns": [short(name) for name in kept[:MOST_INPUTS]],
        "more": max(0, len(kept) - MOST_INPUTS),
        "rows": [
            {
                "name": short(case["key"] if case.get("key") is not None else f"row {case['row']}"),
                "right": right,
                "label": short(case["label"]),
                "action": short(case["action"]),
                "probability": facts.number((case.get("probability") or {}).get(case["label"])),
                "regret": facts.number(case.get("regret")),
                "inputs": [short(case["inputs"].get(name)) for name in kept[:MOST_INPUTS]],
            }
            for case, right in shown
        ],
    }


def data(read: Mapping[str, Any]) -> dict[str, Any]:
    """The table, its parts, its checks, and what changed since the champion's."""
    schema, checks = read["schema"], read["validation"].get("checks") or []
    violated = [item for item in checks if not item.get("ok")]
    return {
        "rows": f"{schema['rows']:,}",
        "features": sum(column["role"] in ("feature", "feature+cost") for column in schema["columns"]),
        "parts": facts.parts(read),
        "classes": [short(name) for name in read["split"]["classes"][:MOST_LISTED]],
        "checks": len(checks),
        "held": len(checks) - len(violated),
        "violated": [
            {"column": short(item.get("column")), "what": short(item.get("expectation")), "observed": short(item.get("observed"))}
            for item in violated[:MOST_LISTED]
        ],
        "changes": changes(read.get("changes")),
    }


def changes(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What changed since the champion's table: rows, schema, and features by how much they moved; None where nothing is known."""
    if not found:
        return None
    schema, before, now = found.get("schema") or {}, found.get("rows_before"), found.get("rows_now")
    listed = sorted(found.get("features") or [], key=lambda item: (item.get("word") == STABLE, -(item.get("psi") or 0.0)))
    target = found.get("target")
    shown = [*([target] if target else []), *listed[:MOST_LISTED]]
    return {
        "rows": "" if before is None or now is None else f"{before:,} then, {now:,} now ({now - before:+,})",
        "schema": [(word, [_column(item) for item in schema.get(word) or []][:MOST_LISTED]) for word in ("added", "removed", "retyped")],
        "moved": sum(item.get("word") != STABLE for item in listed),
        "compared": len(listed),
        "features": [_moved(item, is_target=item is target) for item in shown],
        "left": max(0, len(listed) - MOST_LISTED),
    }


def _column(item: Any) -> str:
    """A column's name, with its kinds where that is what changed."""
    return f"{short(item['column'])} ({item['before']} → {item['now']})" if isinstance(item, Mapping) else short(item)


def _moved(item: Mapping[str, Any], *, is_target: bool) -> dict[str, Any]:
    """How a feature moved, as texts."""
    moved = bool(item.get("word")) and item["word"] != STABLE
    values = [f"{word}: {', '.join(short(value, 30) for value in item[key])}" for key, word in NEWS.items() if item.get(key)]
    return {
        "name": short(item["feature"]),
        "remark": "; ".join([*(["the target"] if is_target else []), *values]),
        "psi": facts.number(item.get("psi")),
        "noise": "" if item.get("psi_noise") is None else facts.number(item["psi_noise"]),
        "distance": facts.number(item.get("ks") if item.get("ks") is not None else item.get("tv")),
        "missing": f"{facts.share(item.get('missing_before'))} → {facts.share(item.get('missing_now'))}",
        "word": short(item.get("word") or ""),
        "moved": moved,
        "bins": item.get("bins") if moved else None,
    }


def provenance(read: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Digests, rule of the parts, code and libraries, by name."""
    manifest, found, rule = read["manifest"], read["verdict"], read["split"]["rule"]
    names = ("bundle_sha256", "weights_sha256", "policy_sha256")
    made = [(f"challenger {name}", manifest[name]) for name in names]
    made += [(f"champion {name}", str(found["champion"].get(name))) for name in names if found["champion"].get(name)]
    made += [(name, str(found[name])) for name in ("data_sha256", "gate_sha256", "evaluation_key") if found.get(name)]
    made += [
        ("parts", f"by {rule['by']}, salt {rule['salt']}"),
        ("data checks", f"{len(read['validation'].get('checks') or [])} expectations"),
    ]
    return [*made, *((name, short(value, 200)) for name, value in (read.get("provenance") or {}).items())]
