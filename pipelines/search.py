"""Optuna's search for a policy: offsets of the log-odds that obtain the highest mean utility. The only importer of optuna.

Each trial depends on the trials before it, the seed and its own number alone, and is written to a journal once it is complete: a study
that was killed goes on where it was, a longer one goes on from a shorter one, and both end as if they had never stopped.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.core import policy, tuning
from pipelines.core.constraints import Constraints, Fitted, proof_rows, satisfy, without
from pipelines.core.sample import Sample, Tuned
from pipelines.core.utility import scale

Float = NDArray[np.float64]

REACH = 4.0  #: Optuna looks at offsets up to this many log units, and one beyond the exact solution
STARTUP = 20  #: trials at random before TPE models what it saw
BLOCK, REFINED = 100, 33  #: of each so many trials, so many at the end refine the best
FIRST_STEP = 0.025  #: of the reach
JOURNALS = 10  #: studies whose trials are kept
ALIKE = 1e-12  #: mean utilities closer than this share of the largest regret are equal


@dataclass(frozen=True)
class Study:
    """What Optuna tried: names of the numbers searched, a row of them per trial, values, where each came from, and the best.

    `short` says by how much a trial misses the requirements, 0 where it meets them; `leads` which trial was the best up to each.
    """

    names: tuple[str, ...]
    points: Float
    values: Float
    short: Float
    sources: tuple[str, ...]
    leads: tuple[int, ...]
    importance: dict[str, float]
    fitted: Fitted


@dataclass(frozen=True)
class Space:
    """What is searched: the offsets of all classes but the first and, for more than two classes and two actions, the second's price."""

    names: tuple[str, ...]
    reach: Float
    known: dict[str, Float]
    shape: tuple[int, int]

    def unpack(self, x: Float) -> Tuned:
        """Policy at the point `x`."""
        K, A = self.shape
        return Tuned(np.concatenate([[0.0], x[: K - 1]]), np.array([0.0, x[-1]]) if len(x) == K else np.zeros(A))


@dataclass(frozen=True)
class Keeping:
    """Where complete trials are kept, None for nowhere, and what is called after each."""

    storage: Any = None
    tick: Callable[[], None] = lambda: None


def search_space(sample: Sample, held: Sample, rules: Constraints) -> Space:
    """Space around the analytic policy, at zero, and the exact one where there is one."""
    K, A = sample.shape
    priced = K > 2 and A == 2
    names = tuple([f"offset_{k}" for k in range(1, K)] + (["price_1"] if priced else []))
    known = {"analytic": np.zeros(len(names))}
    if A == 2:
        exact = tuning.exact(sample, held, rules).tuned
        known["exact"] = np.concatenate([exact.offsets[1:] - exact.offsets[0], [exact.prices[1] - exact.prices[0]] if priced else []])
    offsets_known = [float(np.abs(x[: K - 1]).max()) for x in known.values()]
    reach = max(REACH, *(x + 1 for x in offsets_known if x < policy.ALWAYS))
    return Space(names, np.array([reach] * (K - 1) + ([float(np.max(scale(sample.U)))] if priced else [])), known, (K, A))


def search(
    sample: Sample,
    held: Sample,
    rules: Constraints,
    *,
    trials: int,
    seed: int,
    enqueue: Sequence[str] = ("analytic", "exact"),
    keeping: Keeping | None = None,
    name: str = "calib",
    explain: bool = True,
) -> Study:
    """Search for the highest mean utility on `sample` with Optuna: TPE, and in turns a closer look around the best.

    In every trial the limits are met on the rows `held` by prices, and the requirements as far as can be; what is missed is the trial's
    constraint. The best of many trials would look as if it met requirements that it misses, so half of the rows of the classes required
    have no part in the search and prove the result. The policies in `enqueue` are tried first, so the result is never worse than they are on these rows; of equally good
    trials the one nearest to the analytic policy wins. Mean utility is a step function of the offsets, which is why TPE's steps, a
    hundredth of the range at their finest, leave something to be found beside the best. Without `explain` no importance is computed.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    whole, proof = held, proof_rows(held, rules, seed)
    if proof.any():
        sample, held = without(sample, np.tile(proof, len(sample.labels) // len(held.labels))), without(held, proof)
    space = search_space(sample, held, rules)
    known = [key for key in enqueue if key in space.known]
    first = [key for key in known if (np.abs(space.known[key]) <= space.reach).all()]
    beyond = [key for key in known if key not in first]  # an exact policy that always acts, or never
    keeping = keeping or Keeping()
    study, kept, done = optuna.create_study(direction="maximize"), _kept(keeping.storage, name), Tried()
    if kept is not None:
        for trial in kept.get_trials(deepcopy=False)[:trials]:
            study.add_trial(trial)
            done.add([trial.params[n] for n in space.names], trial.value, trial.user_attrs["short"], trial.user_attrs["source"])
    while len(done.values) < trials:
        source = propose(study, space, done, first, seed)
        trial = study.ask(
            {n: optuna.distributions.FloatDistribution(-r, r) for n, r in zip(space.names, space.reach.tolist(), strict=True)}
        )
        x = [trial.params[n] for n in space.names]
        value, missed = judged(space.unpack(np.array(x)), sample, held, rules)
        trial.set_user_attr("source", source)
        trial.set_user_attr("short", missed)
        if rules.recalls:
            trial.set_constraint("requirements", missed)
        study.tell(trial, value)
        done.add(x, value, missed, source)
        if kept is not None:
            kept.add_trial(study.get_trials(deepcopy=False)[-1])
        keeping.tick()
    for key in beyond:
        done.add(space.known[key].tolist(), *judged(space.unpack(space.known[key]), sample, held, rules), key)
    points, values, short = np.array(done.points), np.array(done.values), np.array(done.short)
    worth = np.where(short <= short.min(), values, -np.inf)
    best = np.flatnonzero(worth >= worth.max() - ALIKE * float(np.max(scale(sample.U))))
    nearest = points[best[np.abs(points[best] / space.reach).max(axis=1).argmin()]]
    fitted = satisfy(whole, rules, space.unpack(nearest), proof=proof if rules.recalls else None)
    return Study(
        space.names,
        points,
        values,
        short,
        tuple(done.sources),
        tuple(done.best),
        importances(study, space.names) if explain else {},
        fitted,
    )


@dataclass
class Tried:
    """Trials in their order: points, values, how far the requirements are missed, sources, and the best up to each: least missed first."""

    points: list[list[float]] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    short: list[float] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    best: list[int] = field(default_factory=list)

    def add(self, point: list[float], value: float, short: float, source: str) -> None:
        """Append one."""
        number, lead = len(self.values), self.best[-1] if self.best else None
        better = lead is None or (short, -value) < (self.short[lead], -self.values[lead])
        self.points.append(point)
        self.values.append(value)
        self.short.append(short)
        self.sources.append(source)
        self.best.append(number if better or lead is None else lead)


def judged(start: Tuned, sample: Sample, held: Sample, rules: Constraints) -> tuple[float, float]:
    """Mean utility of a policy after limits and requirements changed it, and how far the requirements are missed."""
    fitted = satisfy(held, rules, start)
    return sample.value(fitted.tuned), fitted.shortfall(rules)


def propose(study: Any, space: Space, done: Tried, first: Sequence[str], seed: int) -> str:
    """Prepare the next trial of `study` and say where it comes from: a known policy, TPE, or the neighbourhood of the best.

    The neighbourhood is a (1+1) evolution strategy: wider after a success, nearer after a failure (Rechenberg 1973).
    """
    import optuna

    number = len(done.values)
    if number < len(first):
        study.enqueue_trial(dict(zip(space.names, space.known[first[number]].tolist(), strict=True)))
        return first[number]
    seeds = np.random.SeedSequence([seed, number])
    if number % BLOCK < BLOCK - REFINED:
        study.sampler = optuna.samplers.TPESampler(seed=int(seeds.generate_state(1)[0]), multivariate=True, n_startup_trials=STARTUP)
        return "tpe"
    step = FIRST_STEP
    for i in range(number - number % BLOCK + BLOCK - REFINED, number):
        step *= 1.5 if done.best[i] == i else 0.93
    centre = np.array(done.points[done.best[-1]])
    point = np.clip(centre + step * space.reach * np.random.default_rng(seeds).normal(size=len(centre)), -space.reach, space.reach)
    study.enqueue_trial(dict(zip(space.names, point.tolist(), strict=True)))
    return "refined"


def importances(study: Any, names: tuple[str, ...]) -> dict[str, float]:
    """Share of the values' variation that each number explains, where there is more than one."""
    import optuna

    if len(names) < 2 or len({trial.value for trial in study.get_trials(deepcopy=False)}) < 2:
        return dict.fromkeys(names, 1.0 if len(names) == 1 else 0.0)
    return dict(optuna.importance.get_param_importances(study, evaluator=optuna.importance.PedAnovaImportanceEvaluator()))


def _kept(storage: Any, name: str) -> Any:
    import optuna

    return None if storage is None else optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)


def journal(path: Path) -> Any:
    """Storage of trials in the file `path`, made where there is none; a last line that a kill cut short is dropped.

    Of the journals in its folder the newest stay.
    """
    import optuna

    class Lines(optuna.storages.journal.JournalFileBackend):  # type: ignore[misc]
        """One process writes, and a lost trial is tried again: no lock, no wait for the disk."""

        def append_logs(self, logs: list[dict[str, Any]]) -> None:
            """Append a line per log."""
            with path.open("ab") as stream:
                stream.write("".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode())

    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not (content := path.read_bytes()).endswith(b"\n"):
        path.write_bytes(content[: content.rfind(b"\n") + 1])
    others = sorted((other for other in path.parent.glob("*.journal") if other != path), key=lambda other: other.stat().st_mtime)
    for old in others[: max(0, len(others) + 1 - JOURNALS)]:
        old.unlink()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.storages.JournalStorage(Lines(str(path)))


@contextmanager
def progress(trials: int) -> Iterator[Callable[[], None]]:
    """Yield what is to be called after each of so many trials: it moves a line on a terminal, and does nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as line:
        task = line.add_task("searching a policy", total=trials)
        yield lambda: line.advance(task)
