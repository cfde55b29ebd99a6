"""What `expost tune` does: a study of the training's parameters by held-out log loss, a fair second look at its best, and params.yaml.

Sees no utility and no holdout row: it tunes what is learnt, never what is decided.
"""

from __future__ import annotations

import hashlib
import math
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from pipelines import store, train
from pipelines.errors import ExpostError, NotFiniteError, must
from pipelines.network.task import task_of
from pipelines.params import load
from pipelines.params.train import Train

PARAMS = Path("params.yaml")
#: Seeds, other than the study's, with which the best parameters and the present ones are trained once more.
SEEDS = 3


def tune(*, trials: int, storage: str | None, write: bool, told: Callable[[str], None]) -> dict[str, Any]:
    """Run or go on with the study, confirm its best with other seeds, and put it into params.yaml if `write` and it is surely better.

    Returns a summary as plain types. Raises ExpostError where the split is missing, the storage out of reach, or, before anything is trained,
    where `write` is asked for and params.yaml cannot be written.
    """
    params = load(Train)
    if write:
        _try_to_open()
    inputs, preprocessing = train.read_inputs()
    task = task_of(inputs, preprocessing)
    from pipelines.network import tune as studies

    varied = studies.space_of(params)
    present = {key: value for key, value in studies.dotted(params).items() if key in varied}
    if write:
        replaced(_text(), _paths(present))
    name = study_name(params)
    study = studies.open_study(name, storage, train.CHECKPOINTS / "tune" / f"{name}.journal")

    def said(trial: Any) -> None:
        cut = "not finite" if "not_finite" in trial.user_attrs else "pruned"
        value = cut if trial.value is None or trial.state.name == "PRUNED" else f"{trial.value:.4f}"
        told(f"trial {trial.number}: held-out log loss {value} with {_shown(trial.params)}")

    studies.run(study, task, params, trials=trials, told=said)
    first = studies.best(study)
    best = dict(first.params)
    confirmed = _confirmed(studies, task, params, best, told) if best != present else None
    adopted = bool(confirmed and confirmed["low"] is not None and confirmed["low"] > 0)
    if adopted and write:
        _write(_paths(best))
    ended = studies.done(study)
    return {
        "study": name,
        "trials": len(ended),
        "pruned": sum(trial.state.name == "PRUNED" for trial in ended),
        "present": present,
        "best": best,
        "best_log_loss": first.value,
        "confirmed": confirmed,
        "better": adopted,
        "written": adopted and write,
    }


def study_name(params: Train) -> str:
    """Name of the study: inputs, code and all parameters that it does not vary."""
    from pipelines.network.tune import fixed

    return hashlib.sha256(str(train.checkpoint_path(fixed(params))).encode()).hexdigest()[:16]


def _confirmed(studies: Any, task: Any, params: Train, best: dict[str, Any], told: Callable[[str], None]) -> dict[str, Any]:
    """Held-out log loss of both with seeds that the study did not use, and the 95 % interval (t) of what the best saves.

    The best of many trials looks better than it is; a difference that other seeds do not show is none. None stands for what the best saves, and
    for its log loss, where that is not finite with one of the seeds.
    """
    from scipy.stats import t

    pairs: list[tuple[float, float | None]] = []
    for seed in range(params.seed + 1, params.seed + 1 + SEEDS):
        again = params.model_copy(update={"seed": seed})
        now, then = studies.fitted(task, again).valid_log_loss, _loss(studies, task, studies.with_values(again, best))
        shown = "not finite" if then is None else f"{then:.4f}"
        told(f"seed {seed}: held-out log loss {now:.4f} as it stands, {shown} with the study's best")
        pairs.append((now, then))
    saved = [now - then for now, then in pairs if then is not None]
    both = {"seeds": SEEDS, "present": [now for now, _ in pairs], "best": [then for _, then in pairs]}
    if len(saved) < SEEDS:
        return both | dict.fromkeys(("saved", "low", "high"))
    half = float(t.ppf(0.975, SEEDS - 1)) * statistics.stdev(saved) / math.sqrt(SEEDS)
    mean = statistics.fmean(saved)
    return both | {"saved": mean, "low": mean - half, "high": mean + half}


def _loss(studies: Any, task: Any, params: Train) -> float | None:
    try:
        return float(studies.fitted(task, params).valid_log_loss)
    except NotFiniteError:
        return None


def _shown(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in values.items())


@contextmanager
def _writing(remedy: str) -> Iterator[None]:
    """Let what the system refuses to do with params.yaml be one ExpostError."""
    try:
        yield
    except OSError as error:
        raise _unwritable(f"{error.strerror or error}, {error.filename or PARAMS}", remedy) from error


def _unwritable(got: str, remedy: str) -> ExpostError:
    return must("params.yaml must be a file that --write can replace", got, remedy)


def _try_to_open() -> None:
    """Raise ExpostError where params.yaml cannot be written, which the end of a long study would be a bad time to learn; changes nothing."""
    remedy = "Let yourself write to it and to its folder, or leave --write out: the best values are shown then."
    with _writing(remedy), PARAMS.open("r+b"), tempfile.TemporaryFile(dir=PARAMS.parent):
        pass
    if not PARAMS.stat().st_mode & 0o222:  # nobody may, but a superuser could open it
        raise _unwritable("it is read-only", remedy)


def _text() -> str:
    return PARAMS.read_bytes().decode()  # bytes: line ends stay as they are


def _paths(values: dict[str, Any]) -> dict[str, Any]:
    """The study's values by their path in params.yaml."""
    return {f"train.{key}": value for key, value in values.items()}


def _write(values: dict[str, Any]) -> None:
    with _writing("The study is kept: mend that and call `expost tune --write` again."):
        content = replaced(_text(), values)
        with store.atomic_file(PARAMS) as temporary:
            temporary.write_bytes(content.encode())


def replaced(text: str, values: dict[str, Any]) -> str:
    """The text of params.yaml with other values for keys given by dotted path; all else, comments included, stays to the byte.

    Raises ExpostError where a key does not stand there as a plain value.
    """
    root = yaml.compose(text, yaml.SafeLoader)
    spots = []
    for path, value in values.items():
        node: Any = root
        for key in path.split("."):
            pairs = node.value if isinstance(node, yaml.MappingNode) else []
            node = next((found for name, found in pairs if name.value == key), None)
        if not isinstance(node, yaml.ScalarNode):
            raise must(
                f"params.yaml must hold {path} as a plain value to be replaced", "it does not", f"Write {path}: {value:.3g} yourself."
            )
        spots.append((node.start_mark.index, node.end_mark.index, str(value) if isinstance(value, int) else f"{value:.6f}".rstrip("0")))
    for start, end, number in sorted(spots, reverse=True):
        text = text[:start] + number + text[end:]
    return text
