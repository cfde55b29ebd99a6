"""The text of `params.yaml` as `init` writes it: every section, every option, a comment on every line."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from pydantic import BaseModel

_HEAD = "# params.yaml, written by `expost init`: change any line. digest: "

_COMMENTS = {
    "ingest": "the source, the target and a role for each column",
    "ingest.source": "file, folder, glob or URL of the table; read anew at each run",
    "ingest.target": "column to predict",
    "ingest.classes": "names of its classes, always quoted; of two, the last is the positive (dearer) one",
    "ingest.columns": "roles: feature, key, group, time, part, weight, cost, feature+cost, ignored; kinds: number, category, boolean, date, text, image",
    "ingest.where": "SQL condition that rows must meet, or null for all rows",
    "ingest.image": "the form of all images, or null where the table has none",
    "ingest.image.size": "height and width in pixels",
    "ingest.image.channels": "1 grey, 3 colours",
    "ingest.image.resize": "an image of another size: refuse it, or bring it to size by area or bilinear",
    "ingest.holdout_source": "a second file that is the holdout, or null",
    "validate": "what the data checks beyond data/expectations.json allow",
    "validate.allow_separating": "features that may separate the classes on their own, which usually means leakage",
    "validate.allow_look_alikes": "columns whose values may differ only in case, white space or Unicode form",
    "split": "the rule that gives each row its part",
    "split.by": "hash of a row's columns, time (absolute dates), or column (declared parts)",
    "split.salt": "names the repetition: another salt, other parts",
    "split.columns": "columns that the hash reads, as recorded now; never the target",
    "split.shares": "share of each part; they sum to 1",
    "split.shares.train": "fits the weights",
    "split.shares.valid": "stops the training",
    "split.shares.calib": "fits the calibrator and the policy",
    "split.shares.holdout": "read by evaluate and gate only",
    "split.time": "first dates of valid, calib and holdout where by is time",
    "split.time.valid_from": "ISO 8601 date; earlier rows train",
    "split.time.calib_from": "ISO 8601 date",
    "split.time.holdout_from": "ISO 8601 date; this and later rows hold out",
    "split.column": "name and parts of the declaring column where by is column",
    "split.min_rows_per_class": "fewest rows of each class in each part",
    "split.folds": "networks trained on folds of all rows before the holdout: a number, auto (on few rows), or null for one on train",
    "split.repeats": "repetitions of the folds: a number, or auto",
    "train": "a symmetric proper loss; costs have no place here, by design",
    "train.seed": "seed of weights and batches",
    "train.loss": "cross_entropy, brier or cross_entropy+brier",
    "train.brier_weight": "of the Brier score, in nats per point, where both are the loss",
    "train.network": "TabM: members that share a backbone; or {class: my_package.MyNet, arguments: {}}, a network of yours",
    "train.trees": "boosted trees on numbers and categories, pooled with the network by the share that held-out log loss prefers, or null",
    "train.trees.rounds": "at most",
    "train.trees.patience": "rounds without a better held-out log loss before they stop",
    "train.trees.learning_rate": "share of each tree that counts",
    "train.trees.leaves": "of a tree at most",
    "train.trees.depth": "of a tree at most",
    "train.trees.rows_per_leaf": "at least",
    "train.trees.feature_share": "share of features that each tree may split by, drawn by train.seed",
    "train.trees.leaf_penalty": "pull of the leaves towards 0",
    "train.logistic": "logistic regression on words, numbers and categories, pooled likewise, or null",
    "train.logistic.strengths": "inverse penalties, ascending; tried until three in a row bring no lower held-out log loss",
    "train.augment": "how images of a batch are changed, as in {flip: false, shift: 2}, or null",
    "train.augment.flip": "mirror left to right half of the time: only where that changes no class",
    "train.augment.shift": "pixels that an image is moved by at most",
    "train.network.kind": "residual, a convolutional network for images",
    "train.network.channels": "of each stage; the size is halved in between",
    "train.network.class": "dotted path of a torch.nn.Module",
    "train.network.arguments": "of its constructor",
    "train.network.k": "members",
    "train.network.blocks": "layers of the backbone",
    "train.network.width": "units per layer",
    "train.network.dropout": "share of units left out in training",
    "train.network.number_embedding": "width of each number's embedding",
    "train.network.text_embedding": "width of each text's embedding",
    "train.network.bins": "bins of each number at most, between which its embedding bends",
    "train.learning_rate": "step size of AdamW",
    "train.weight_decay": "its pull of weights towards 0",
    "train.batch_size": "rows per step",
    "train.max_epochs": "passes over train at most",
    "train.patience": "epochs without a better valid log loss before it stops",
    "train.max_minutes": "minutes after which it stops at the end of an epoch, or null; a result cut short depends on the machine's speed",
    "train.gradient_clip": "largest norm of a gradient",
    "train.accelerator": "auto, cpu, or gpu (which must then be there)",
    "calibrate": "the calibrators that compete and the folds that judge them",
    "calibrate.methods": "candidates, simplest first",
    "calibrate.folds": "folds of the cross-fitting on calib",
    "calibrate.repeats": "repetitions of those folds",
    "calibrate.seed": "seed of the folds",
    "decide": "the policies that compete and how long Optuna searches",
    "decide.policies": "candidates, simplest first",
    "decide.trials": "trials of the Optuna study",
    "decide.seed": "seed of the study",
    "decide.confidence": "of the bound on a policy's gain over the analytic one",
    "utility": "what each action is worth for each true class; training never sees it",
    "utility.unit": "unit of the numbers below",
    "utility.matrix": 'true class, then action: higher is better, a cost is negative; a number, or text over cost columns, as in "-0.75 * amount"',
    "utility.limits": 'the largest share of rows for an action, as in {"biopsy": {at_most: 0.2}}',
    "utility.require": "what must be reached, whatever it costs",
    "utility.require.recall": 'least share of a class that gets its best action, as in {class: "malignant", at_least: 0.95, confidence: 0.9}',
    "utility.prior": 'class shares where deployment differs from the data, as in {"malignant": 0.02}',
    "evaluate": "how the holdout is scored",
    "evaluate.confidence": "of the intervals shown",
    "evaluate.resamples": "bootstrap resamples for metrics that are not means",
    "evaluate.seed": "seed of those",
    "evaluate.neighbours": "neighbours of the kNN probe",
    "evaluate.slices": 'groups of rows that are watched, a name and an SQL condition on columns, as in {"older": "age > 50"}',
    "gate": "challenger against champion: criteria and margins",
    "gate.objective": "non-inferiority: not worse by more than the margin; superiority: surely better",
    "gate.alpha": "risk of promoting a model that is worse by the margin; it shrinks with each look at the same rows",
    "gate.margin": "share of the champion's gain that may be lost",
    "gate.material": "how much worse a guarded criterion must be to matter",
    "gate.material.log_loss": "nats per row",
    "gate.material.brier": "Brier points",
    "gate.material.calibration_error": "of probability, above what a calibrated model shows by chance",
    "gate.material.v_information": "bits per row",
    "gate.calibration": "where slope and intercept on the holdout may lie; they block when their interval lies outside",
    "gate.calibration.slope": "1 is right",
    "gate.calibration.intercept": "0 is right",
    "gate.min_support": "rows of a slice from which on it is judged; with fewer it is shown",
    "gate.negative_flips": "largest share of cases that the champion has right and the challenger wrong",
    "gate.least_rank": "share of the champion's effective rank below which it blocks; null: it is shown, and warns",
    "gate.max_looks": "a row judged on so often is left out: fresh rows are needed",
    "gate.bootstrap": "absolute criteria for a first champion",
    "gate.bootstrap.beats_trivial": "its utility must exceed the best trivial policy's",
    "gate.bootstrap.max_log_loss_ratio": "its log loss over that of always saying the class shares, at most",
    "registry": "where models are registered",
    "registry.model": "name of the registered model",
    "registry.tracking_uri": "MLflow's store; MLFLOW_TRACKING_URI wins",
    "registry.ledger_uri": "store of who reigns",
    "registry.approval": "auto: a PASS is promoted by itself; manual: it waits for `expost promote`",
    "registry.expires_after": "days after its registration that a verdict may still promote",
}


#: Mappings whose keys are the data's own names, which are always quoted.
_NAMES = ("ingest.columns", "utility.matrix", "utility.limits", "utility.prior", "evaluate.slices")
#: Short comments of their entries, where the line of the section has said the rest.
_ENTRIES = {
    "utility.limits": "of all rows",
    "utility.prior": "of all rows in deployment",
    "evaluate.slices": "a slice",
    "utility.require.recall": "of the class's rows",
}
_PLAIN = ({"role", "kind"}, {"at_most"}, {"class", "at_least", "confidence"})


def render(sections: dict[str, BaseModel], about: dict[str, str]) -> str:
    """Text of params.yaml with `sections` in their order; `about` has comments for dotted keys that are the data's own."""
    body = "".join(render_section(name, section, about) for name, section in sections.items())
    return f"{_HEAD}{_digest(body)}\n{body}"


def render_section(name: str, section: BaseModel, about: dict[str, str]) -> str:
    """Text of one section, from the line of its name on."""
    comments = {key: "".join(c if c.isprintable() else "?" for c in text) for key, text in {**_COMMENTS, **about}.items()}
    fallback = " ".join((type(section).__doc__ or name).split()).split(". ")[0].rstrip(".")
    lines = [f"{name}:  # {comments.get(name, fallback)}", *_mapping(section.model_dump(), name, 1, comments, fallback)]
    return "\n".join(lines) + "\n"


def is_untouched(text: str) -> bool:
    """Whether `text` is what `render` wrote, to the byte."""
    head, _, body = text.partition("\n")
    return head == _HEAD + _digest(body)


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:16]


def _mapping(values: dict[str, Any], where: str, depth: int, comments: dict[str, str], fallback: str) -> list[str]:
    lines: list[str] = []
    for key, value in values.items():
        path, indent = f"{where}.{key}", "  " * depth
        comment = comments.get(path, _ENTRIES.get(where, fallback))
        name = key if re.fullmatch(r"[a-z_]+", key) and where not in _NAMES else quoted(key)
        if isinstance(value, dict) and value and not _is_leaf(path):
            lines.append(f"{indent}{name}:  # {comment}")
            lines += _mapping(value, path, depth + 1, comments, comment)
        elif isinstance(value, list | tuple) and len(flow(value)) > 90:
            lines.append(f"{indent}{name}:  # {comment}")
            own = _ENTRIES.get(path, comment)
            lines += [f"{indent}  - {flow(item)}  # {comments.get(f'{path}.{item}', own)}" for item in value]
        else:
            lines.append(f"{indent}{name}: {flow(value)}  # {comment}")
    return lines


def _is_leaf(path: str) -> bool:
    """Columns, rows of the utility matrix and limits stand on one line each."""
    return path.startswith(("ingest.columns.", "utility.matrix.", "utility.limits."))


def flow(value: Any) -> str:
    """Value in YAML's flow style, on one line; text that names things is quoted, so that Yes and 2 stay text."""
    if isinstance(value, dict):
        name, show = str if set(value) in _PLAIN else quoted, str if set(value) == {"role", "kind"} else flow
        return "{" + ", ".join(f"{name(key)}: {show(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(flow, value)) + "]"
    if isinstance(value, float):
        return f"{int(value)}" if value.is_integer() and abs(value) < 1e15 else _decimal(value)
    return quoted(value) if isinstance(value, str) else json.dumps(value)


def _decimal(value: float) -> str:
    """Shortest text that reads back as the same float in YAML 1.1, which wants a dot before an exponent."""
    text = repr(value)
    return text.replace("e", ".0e") if "e" in text and "." not in text else text


def quoted(text: str) -> str:
    """Text as a double-quoted YAML scalar; JSON's escapes are a part of YAML's, which escapes more: all that is not printable."""
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in json.dumps(text, ensure_ascii=False))
