"""The flows `retrain` and `retune`: champion in, for `retrain` the data too, one task per changed stage, then register, promote and push."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture
from prefect.runtime import deployment, flow_run
from prefect.states import Completed, Failed

from flows import graph, panel
from flows.process import run_dvc, run_stage
from flows.workspace import Processes, check_workspace, exclusive
from pipelines.commands.check import check_params
from pipelines.commands.publish import Outcome, look, publish
from pipelines.commands.retune import replaced
from pipelines.errors import ExpostError
from pipelines.ledger import OvertakenError, UnreachableError

BLOCKED, WAITING = "Blocked", "Waiting for review"


class _OwnMessageOnly(logging.Filter):
    """An expected error is shown once, at the end, by its own message: no traceback, and no repetition of it by Prefect."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to show the record."""
        if record.exc_info and isinstance(record.exc_info[1], ExpostError):
            record.exc_info = None
        repeats = record.getMessage().startswith(
            ("Task run failed", "Flow run failed", "Finished in state Failed", "Finished in state NotReady")
        )
        return not repeats


def _run_name() -> str:
    return f"{flow_run.flow_name} {datetime.now().astimezone():%Y-%m-%d %H:%M}"


@flow(name="retrain", flow_run_name=_run_name, log_prints=True)
def retrain() -> State[Any]:
    """Bring the workspace up to date and publish the result; ends Completed, Completed as "Blocked" or as "Waiting for review", or
    Failed with one message.
    """
    return _ended(_retrain)


@flow(name="retune", flow_run_name=_run_name, log_prints=True)
def retune(utility: dict[str, Any] | None = None) -> State[Any]:
    """Decide anew on the same weights, and publish; with `utility`, the section of params.yaml is replaced by it first. Ends as `retrain`."""
    return _ended(lambda: _retune(utility))


@flow(name="gate", flow_run_name=_run_name, log_prints=True)
def judge(dry_run: bool = False) -> State[Any]:
    """Judge what stands against the champion that reigns now, and publish unless `dry_run`. Ends as `retrain`."""
    return _ended(lambda: _judge(dry_run))


def _ended(work: Callable[[], Outcome]) -> State[Any]:
    for name in ("prefect.task_runs", "prefect.flow_runs", "prefect.task_engine", "prefect.flow_engine"):
        logging.getLogger(name).addFilter(_OwnMessageOnly())
    try:
        with exclusive():
            outcome = work()
    except ExpostError as error:
        if deployment.id:  # no command prints the message, and Prefect's own line with it is filtered out
            get_run_logger().error("%s", error)
        return Failed(message=str(error))
    if outcome.blocked:
        return Completed(name=BLOCKED, message=f"The gate's verdict is {outcome.verdict}.", data=outcome.as_json())
    if outcome.waiting:
        return Completed(name=WAITING, message=outcome.reasons[-1], data=outcome.as_json())
    return Completed(message="Identical to the champion." if outcome.identical else f"Version {outcome.version}.", data=outcome.as_json())


def _retrain() -> Outcome:
    check_params()
    check_workspace()
    _pull_missing()
    digest = _sync()
    _run_and_tell()
    return _published(digest)


def _retune(utility: dict[str, Any] | None) -> Outcome:
    """No source is read: the data and the weights stay as they are, or the run is refused."""
    check_params()
    check_workspace()
    _pull_missing()
    graph.refuse_stale_before("decide")
    _mirror()
    try:
        with replaced(utility):
            _run_and_tell()
    except ExpostError:
        if utility is not None and (missing := graph.missing_outs()):  # DVC removes what a stage wrote before it runs
            run_dvc("checkout", "--quiet", *missing)
        raise
    return _published(str(graph.data_digest()))


def _judge(dry_run: bool) -> Outcome:
    """Only the champion and what is judged of it may have changed; everything before stays, or the run is refused."""
    check_params()
    check_workspace()
    _pull_missing()
    graph.refuse_stale_before("evaluate", but=("champion",))
    _mirror()
    _run_and_tell()
    return look(get_run_logger().info) if dry_run else _published(str(graph.data_digest()))


def _run_and_tell() -> None:
    ended = run_stages()
    get_run_logger().info("Stages: %s.", ", ".join(f"{name} {state.lower()}" for name, state in ended.items()))


def _pull_missing() -> None:
    """Fetch what the workspace lacks; what the remote lacks too is computed, what is corrupt there is an error."""
    missing = graph.missing_outs()
    if missing and graph.has_remote():
        run_dvc("pull", "--quiet", "--allow-missing", *missing)


def _sync() -> str:
    """Version the source when it changed, mirror the champion; returns the data's digest."""
    from pipelines.commands.source import sync_source

    logger = get_run_logger()
    digest = sync_source(logger.info).digest
    logger.info("Data version %s.", digest[:12])
    _mirror()
    return digest


def _mirror() -> None:
    from pipelines.commands.mirror import refresh_mirror

    status = refresh_mirror(get_run_logger().warning)
    get_run_logger().info("Champion: %s.", f"version {status['version']}" if status.get("version") else "none")


@task(cache_policy=NO_CACHE, task_run_name="{name}")
def run_one(name: str, reasons: list[Any], upstream: tuple[str, ...], before: dict[str, str | None], processes: Processes) -> State[Any]:
    """Run one stage when `dvc status` named it or the outs of a stage that it reads are others than before; else end as Cached."""
    renewed = [other for other in upstream if graph.outs_digest(other) != before[other]]
    if not reasons and not renewed:
        return Completed(name="Cached", message="nothing that it reads has changed")
    try:
        run_stage(name, processes, get_run_logger().info)
    except ExpostError as error:
        return Failed(message=str(error))
    return Completed(message="ran")


def run_stages() -> dict[str, str]:
    """Run one task per stage, each waiting on its upstream stages, and return the states they ended in ("Completed", "Cached").

    Raises the first failed stage's own message.
    """
    stages, changed, processes = graph.stage_graph(), graph.changed_stages(), Processes()
    before = {stage.name: graph.outs_digest(stage.name) for stage in stages}
    warm_up = _prepare_registry() if changed.keys() - {"champion"} else None
    futures: dict[str, PrefectFuture[Any]] = {}
    try:
        for stage in stages:
            above = [futures[name] for name in stage.upstream]
            reasons = changed.get(stage.name, [])
            futures[stage.name] = run_one.submit(stage.name, reasons, stage.upstream, before, processes, wait_for=above, return_state=False)
        for future in futures.values():
            _wait(future)
    finally:
        processes.end()
    for name, future in futures.items():
        if future.state.is_failed() or future.state.is_crashed():
            raise ExpostError(future.state.message or f"stage {name} failed")
    if warm_up is not None:
        warm_up.join()
    return {name: str(future.state.name) for name, future in futures.items()}


def _wait(future: PrefectFuture[Any]) -> None:
    """Wait in short steps: polars lets waits go on after Ctrl-C, so Python would hear of it only when the stage has ended."""
    ended = threading.Event()
    future.add_done_callback(lambda _: ended.set())
    while not ended.wait(0.2):
        pass
    future.wait()


def _prepare_registry() -> threading.Thread:
    """Make the registry's store while the stages run: a new one takes seconds; if it cannot be reached, registering will say so."""

    def prepare() -> None:
        from pipelines import tracking
        from pipelines.params import load
        from pipelines.params.registry import Registry

        params = load(Registry)
        with contextlib.suppress(ExpostError):
            tracking.prepare(params.tracking_uri, params.model)

    thread = threading.Thread(target=prepare, daemon=True)
    thread.start()
    return thread


def _is_network(_task: Any, _run: Any, state: State[Any]) -> bool:
    return isinstance(state.result(raise_on_failure=False), UnreachableError)


@task(name="register", task_run_name="register", cache_policy=NO_CACHE, retries=1, retry_delay_seconds=2, retry_condition_fn=_is_network)
def _register(digest: str) -> dict[str, Any]:
    return publish(digest, get_run_logger().info).as_json()


def _published(digest: str) -> Outcome:
    """Register, promote, push and show; where another champion came to reign meanwhile, judge once more against that one."""
    try:
        outcome = Outcome.from_json(_result_of(_register, digest))
    except OvertakenError as error:
        get_run_logger().warning("%s Another run was faster: judging once more, against the champion that reigns now.", error)
        _mirror()
        _run_and_tell()
        outcome = Outcome.from_json(_result_of(_register, digest))
    if graph.has_remote():
        _result_of(_upload)
    create_markdown_artifact(key="retrain-panel", markdown=panel.markdown(outcome, digest), description="What this run found")
    return outcome


@task(name="push", task_run_name="push", cache_policy=NO_CACHE, retries=2, retry_delay_seconds=2)
def _upload() -> None:
    run_dvc("push", "--quiet")


def _result_of(work: Any, *arguments: Any) -> Any:
    state = work(*arguments, return_state=True)
    if state.is_failed() or state.is_crashed():
        error = state.result(raise_on_failure=False)
        raise error if isinstance(error, ExpostError) else ExpostError(f"task {work.name} must end well, however: {error}. Run again.")
    return state.result()


def outcome_of(state: State[Any]) -> Outcome:
    """The outcome that a finished flow carries; raises ExpostError with its one message where it failed."""
    if not state.is_completed():
        raise ExpostError(state.message or f"the flow ended as {state.name}")
    return Outcome.from_json(state.result())
