"""README's tables on how training is done: the data path, and networks of folds with the slope that their average leaves."""

from __future__ import annotations

from typing import Any

ALONE = "one network"  #: what the others are compared with
CASES = {"table": "table, TabM", "images": "images of 28 by 28, residual network"}


def datapath(result: dict[str, Any]) -> str:
    """Speed of an epoch and of the batches alone, each beside what it is compared with in the same process."""
    rows = [
        "| speed, as a multiple | an epoch, of a hand-written tensor loop's | batches alone, of a default DataLoader's |",
        "|---|---|---|",
    ]
    for name, case in CASES.items():
        if name in result:
            found = result[name]
            rows.append(f"| {case}, {found['rows']:,} rows | {_range(found['epoch'], 2)} | {_range(found['batches'], 1)} |")
    return "\n".join([*rows, "| aimed at | 0.90 | 10 |"]) + "\n"


def datapath_gpu(result: dict[str, Any]) -> str:
    """The same on a GPU, with rows that are on it and with rows that do not fit, and how near the file that ships is to what ran there."""
    rows = [
        f"| on one {result['machine']['gpu']} | epoch, of a hand-written loop's, rows on the GPU | rows that do not fit there | s per epoch, loop's | "
        "probability, file minus GPU at most: fp32 | bf16 |",
        "|---|---|---|---|---|---|",
    ]
    for name, case in CASES.items():
        if name in result:
            found = result[name]
            here, away, file = found["epoch"], found["epoch of rows that do not fit"], found["file"]
            seconds = f"{here['ours']:.2f}, {here['theirs']:.2f}"
            near = f"{file['fp32']:.0e} | {file['bf16']:.0e}"
            rows.append(f"| {case}, {found['rows']:,} rows | {_range(here, 2)} | {_range(away, 2)} | {seconds} | {near} |")
    return "\n".join([*rows, "| aimed at | 0.90 | | | 1e-05 | |"]) + "\n"


def _range(found: dict[str, Any], digits: int) -> str:
    return f"{found['ratio']:.{digits}f} ({found['low']:.{digits}f} to {found['high']:.{digits}f})"


def folds(result: dict[str, Any]) -> str:
    """Means over the splits for one network and for networks of folds; what is left of the slope without and with a held-out temperature."""
    rows = [
        "| networks | cost per case | minus one network's | log loss | slope left on the holdout, uncalibrated | with a temperature from held-out logits | chosen | s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for table, entry in result["tables"].items():
        for arm, mean in entry["summary"].items():
            less = mean["cost_difference"]
            difference = f"{less['mean']:+.3f} ({less['low']:+.3f} to {less['high']:+.3f})" if arm != ALONE else ""
            slopes = f"{mean['slope_identity']:.2f} | {mean['slope_temperature']:.2f}"
            chosen = ", ".join(dict.fromkeys(mean["methods"]))
            name = f"{table} ({len(entry['repetitions'])} splits): {arm}"
            rows.append(
                f"| {name} | {mean['cost']:.3f} | {difference} | {mean['log_loss']:.3f} | {slopes} | {chosen} | {mean['seconds']:.0f} |"
            )
    return "\n".join(rows) + "\n"
