"""A study of learning rate, weight decay, width and dropout with Optuna, by held-out log loss: resumable, and shared by several processes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import optuna
import sqlalchemy as sa
from lightning.pytorch.callbacks import Callback

from pipelines.errors import NotFiniteError, must, without_password
from pipelines.network.data import mix
from pipelines.network.fit import Fitted
from pipelines.network.learner import Learner
from pipelines.network.task import Task
from pipelines.params.train import Train

#: Epochs that a trial may take before it is compared with others, and trials that are not compared at all.
WARM_UP, FIRST = 5, 5


@dataclass(frozen=True)
class Range:
    """Values that a parameter may take: from `low` to `high`, on a logarithmic scale where `log`, or one of `choices`."""

    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[int, ...] = ()

    @property
    def one(self) -> float:
        """One of the values, always the same."""
        return self.choices[0] if self.choices else self.low

    def holds(self, value: float) -> bool:
        """Whether a trial may take this value."""
        return value in self.choices if self.choices else self.low <= value <= self.high

    def of(self, trial: optuna.Trial, name: str) -> float:
        """The trial's value."""
        if self.choices:
            return int(trial.suggest_categorical(name, list(self.choices)))
        return float(trial.suggest_float(name, self.low, self.high, log=self.log))


SPACE = {
    "learning_rate": Range(3e-4, 2e-2, log=True),
    "weight_decay": Range(1e-5, 1e-1, log=True),
    "network.width": Range(choices=(32, 64, 128, 256)),
    "network.dropout": Range(0.0, 0.5),
}


def space_of(params: Train) -> dict[str, Range]:
    """What a study of these parameters varies, by dotted name: another network than TabM has no width of ours."""
    given = dotted(params)
    return {name: space for name, space in SPACE.items() if name in given}


def fixed(params: Train) -> Train:
    """The parameters with what a study varies set to the same values, whatever it was: equal for those that may share a study."""
    return with_values(params, {name: space.one for name, space in space_of(params).items()})


def with_values(params: Train, values: dict[str, float]) -> Train:
    """The parameters with some of them changed, by dotted name; checked as those of params.yaml are."""
    changed = params.model_dump()
    for name, value in values.items():
        *sections, last = name.split(".")
        target = changed
        for section in sections:
            target = target[section]
        target[last] = value
    return Train.model_validate(changed)


class Pruner(Callback):  # type: ignore[misc]
    """Tells the study each epoch's held-out log loss and ends a trial that is worse than most were by then."""

    def __init__(self, trial: optuna.Trial) -> None:
        self.trial = trial

    def on_train_epoch_end(self, trainer: pl.Trainer, module: Learner) -> None:
        """Report and perhaps prune; after validation, whose figure this is."""
        self.trial.report(module.valid_log_loss, module.current_epoch)
        if self.trial.should_prune():
            raise optuna.TrialPruned


class Sampler(optuna.samplers.TPESampler):  # type: ignore[misc]
    """TPE that draws a trial by the seed and its number, which no other call has: two never repeat each other; trial 0 takes `first`."""

    def __init__(self, seed: int, first: dict[str, Any]) -> None:
        super().__init__()
        self.seed, self.first = seed, first

    def before_trial(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        """Begin the trial's own random numbers."""
        super().__init__(seed=mix(self.seed, trial.number) % 2**32, constant_liar=True)  # keeps away from trials that others have begun
        super().before_trial(study, trial)

    def sample_independent(self, study: optuna.Study, trial: optuna.trial.FrozenTrial, param_name: str, param_distribution: Any) -> Any:
        """A value where there are too few trials to learn from."""
        if trial.number == 0 and param_name in self.first:
            return self.first[param_name]
        return super().sample_independent(study, trial, param_name, param_distribution)


def open_study(name: str, storage: str | None, journal: Path) -> optuna.Study:
    """The study `name` in a database, or in the file `journal` where `storage` is None; made where there is none.

    Raises ExpostError where the storage cannot be reached.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    journal.parent.mkdir(parents=True, exist_ok=True)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=FIRST, n_warmup_steps=WARM_UP)
    try:
        kept: Any = storage or optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))
        return optuna.create_study(storage=kept, study_name=name, load_if_exists=True, pruner=pruner)
    except (sa.exc.SQLAlchemyError, ImportError, OSError) as error:
        got = without_password(str(error).splitlines()[0][:200])
        raise must(
            "--storage must be a database within reach", got, "Mend the URL, or leave it out: a file keeps the study then."
        ) from error


def fitted(task: Task, params: Train, watchers: tuple[Callback, ...] = ()) -> Fitted:
    """Networks trained with these parameters."""
    with tempfile.TemporaryDirectory() as scratch:
        return task.fit(params, Path(scratch) / "last.ckpt", watchers or (Callback(),))


def run(study: optuna.Study, task: Task, params: Train, *, trials: int, told: Callable[[optuna.trial.FrozenTrial], None]) -> None:
    """Try parameters until the study holds so many finished trials, of whichever process; those of `params` come first.

    A trial that a killed process left unfinished counts for none, one whose loss is not finite as pruned. Raises NotFiniteError where that is
    so of `params` themselves.
    """
    spaces = space_of(params)
    present = {name: value for name, value in dotted(params).items() if name in spaces}
    study.sampler = Sampler(params.seed, {name: value for name, value in present.items() if spaces[name].holds(value)})

    def objective(trial: optuna.Trial) -> float:
        values = {name: space.of(trial, name) for name, space in spaces.items()}
        try:
            found = fitted(task, with_values(params, values), (Pruner(trial),))
        except NotFiniteError as error:
            if values == present:
                raise
            trial.set_user_attr("not_finite", str(error))
            raise optuna.TrialPruned from error
        trial.set_user_attr("epochs", len(found.history))
        return found.valid_log_loss

    while len(done(study)) < trials:
        study.optimize(objective, n_trials=1, callbacks=[lambda _, trial: told(trial)])


def best(study: optuna.Study) -> optuna.trial.FrozenTrial:
    """The trial with the lowest log loss; raises ExpostError where there is none with any."""
    if not study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,)):
        got = f"the losses of all {len(done(study))} became infinite or no number"
        raise must("a study must have a trial that ends with a finite loss", got, "Look at the network and its inputs, or raise --trials.")
    return study.best_trial


def done(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Trials that ended, pruned ones among them."""
    ended = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    return list(study.get_trials(deepcopy=False, states=ended))


def dotted(params: Train) -> dict[str, Any]:
    """Parameters by dotted name."""
    values = params.model_dump()
    network = values.pop("network")
    return {**values, **({f"network.{name}": value for name, value in network.items()} if isinstance(network, dict) else {})}
