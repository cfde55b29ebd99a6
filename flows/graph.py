"""What DVC knows: the stages and their order, which of them changed, and the digests of data and outs. The only importer of dvc."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pipelines.errors import must

if TYPE_CHECKING:
    from dvc.repo import Repo

RAW = Path("data/raw")
LOCK = Path("dvc.lock")
#: How often, and after how many seconds, a lock file that cannot be read is read again.
ATTEMPTS, PAUSE = 50, 0.1


@dataclass(frozen=True)
class Stage:
    """A stage of `dvc.yaml`, the names of the stages whose outs it reads, and the paths that it writes."""

    name: str
    upstream: tuple[str, ...]
    desc: str
    outs: tuple[str, ...]


@contextmanager
def _repo() -> Iterator[Repo]:
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.repo.open_repo import NotDvcRepoError
    from dvc.scm import SCMError

    logging.getLogger("dvc").setLevel(logging.ERROR)
    try:
        with Repo() as repo:
            yield repo
    except (NotDvcRepoError, SCMError) as error:
        raise must(
            "the workspace must be a git repository with DVC in it", _line(error), "Run `git init` here (then `dvc init`)."
        ) from error
    except DvcException as error:
        raise must("DVC must be able to read the workspace", _line(error), "Mend dvc.yaml or the file named.") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")


def stage_graph() -> list[Stage]:
    """The stages of `dvc.yaml`, each after all of its upstream stages; ties in the order of the file."""
    from dvc.stage import PipelineStage

    with _repo() as repo:
        graph = repo.index.graph
        stages = {node: str(node.name) for node in graph.nodes if isinstance(node, PipelineStage)}
        outs = {name: tuple(str(out) for out in node.outs) for node, name in stages.items()}
        desc = {name: node.desc or "" for node, name in stages.items()}
        # dvc.yaml has been read as YAML above, so its own order is safe to ask for
        order = list(yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"])
        above = {name: {stages[to] for to in graph.successors(node) if to in stages} for node, name in stages.items()}
    done: list[Stage] = []
    while above:
        name = next(name for name in order if name in above and not above[name] & set(above))
        done.append(Stage(name, tuple(sorted(above.pop(name), key=order.index)), desc[name], outs[name]))
    return done


def changed_stages() -> dict[str, list[Any]]:
    """What `dvc status` says: per changed stage, its reasons. Stages that are not named are up to date."""
    with _repo() as repo:
        status = repo.status()
    return {name: reasons for name, reasons in status.items() if not name.endswith(".dvc")}


def refuse_stale_before(first: str, but: tuple[str, ...] = ()) -> None:
    """Raise ExpostError, naming the stage and why, where a stage whose outs `first` reads, directly or through others, is not up to date;
    stages of `but` may be otherwise.
    """
    stages, changed = {stage.name: stage for stage in stage_graph()}, changed_stages()
    above: set[str] = set()
    todo = [first]
    while todo:
        found = set(stages[todo.pop()].upstream) - above
        above |= found
        todo += found
    stale = next((name for name in stages if name in above and name in changed and name not in but), None)
    if stale is not None:
        remedy = "Run `expost retrain`: it brings every stage up to date."
        raise must(
            f"every stage before {first} must be up to date to stay as it is", f"stage {stale} {_why(stale, changed[stale])}", remedy
        )


def _why(stage: str, reasons: list[Any]) -> str:
    """What a stage's `dvc status` says, as a clause."""
    if outs_digest(stage) is None:
        return "has never run here"
    changes = [item for reason in reasons if isinstance(reason, dict) for group in reason.values() for item in group.items()]
    named = [(f"section {key} of params.yaml", how) for path, how in changes if isinstance(how, dict) for key, how in how.items()]
    named += [(path, how) for path, how in changes if not isinstance(how, dict)]
    if not named:
        return "has another command"
    shown = ", ".join(f"{name} ({how})" for name, how in named[:3])
    return f"would run again, for {shown}" + (f" and {len(named) - 3} more" if len(named) > 3 else "")


def missing_outs() -> list[str]:
    """Targets of `dvc pull`: tracked files that have a digest and are not in the workspace."""
    with _repo() as repo:
        absent = [out for out in repo.index.outs if out.hash_info and not out.exists]
        return [out.stage.addressing if out.stage.is_data_source else str(out) for out in absent]


def has_remote() -> bool:
    """Whether a default remote is configured."""
    with _repo() as repo:
        return bool(repo.config["core"].get("remote"))


def data_digest() -> str | None:
    """DVC's digest of `data/raw`, or None where nothing is tracked yet."""
    path = RAW.with_name(f"{RAW.name}.dvc")
    if not path.exists():
        return None
    outs = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("outs") or [{}]
    digest = outs[0].get("md5")
    return str(digest) if digest else None


def outs_digest(stage: str) -> str | None:
    """Digests of the outs of `stage` in `dvc.lock`, joined, or None where it never ran."""
    if not LOCK.exists():
        return None
    entry = (_lock().get("stages") or {}).get(stage)
    return " ".join(f"{out['path']}:{out['md5']}" for out in entry.get("outs", [])) if entry else None


def _lock() -> dict[str, Any]:
    """Content of `dvc.lock`; DVC writes it in place while another stage ends, so one caught half-written is read again."""
    for _ in range(ATTEMPTS):
        try:
            return yaml.safe_load(LOCK.read_text(encoding="utf-8")) or {}
        except (yaml.YAMLError, UnicodeDecodeError):
            time.sleep(PAUSE)
    raise must("dvc.lock must be YAML", "it cannot be read", "Restore it from git, or delete it and run `dvc repro`.")
