"""The flows as Prefect deployments that this process serves: `retrain` on a schedule, `retune` when it is asked for."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.errors import must

DEPLOYMENT = "retrain"


def check_cron(cron: str, timezone: str) -> None:
    """Raise ExpostError where Prefect would not take the schedule."""
    from prefect.client.schemas.schedules import CronSchedule
    from pydantic import ValidationError

    try:
        CronSchedule(cron=cron, timezone=timezone)
    except ValidationError as error:
        reason = "; ".join(str(detail["msg"]).removeprefix("Value error, ") for detail in error.errors())
        remedy = 'Write five fields, for example "0 3 * * 1" for Mondays at 3, and a time zone such as Europe/Berlin.'
        raise must("--cron and --timezone must name a schedule", reason, remedy) from error


def serve(cron: str, timezone: str) -> None:
    """Serve until stopped (Ctrl-C or SIGTERM)."""
    from prefect.client.schemas.schedules import CronSchedule
    from prefect.runner import Runner
    from prefect.types.entrypoint import EntrypointType

    with _server() as url:
        from flows.retrain import retrain, retune

        async def work() -> None:
            runner = Runner(name=DEPLOYMENT, limit=1, pause_on_shutdown=True)
            await runner.aadd_flow(
                retune,
                name=retune.name,
                entrypoint_type=EntrypointType.MODULE_PATH,
                description="Decide anew on the same weights; the parameter `utility` replaces that section of params.yaml first.",
            )
            await runner.aadd_flow(
                retrain,
                name=DEPLOYMENT,
                schedules=[CronSchedule(cron=cron, timezone=timezone)],
                entrypoint_type=EntrypointType.MODULE_PATH,
                description="Retrain in the workspace of the process that serves this deployment.",
            )
            print(f"Serving {retrain.name}/{DEPLOYMENT} at {cron!r} ({timezone}) through {url}; Ctrl-C stops.", flush=True)
            await runner.start()

        try:
            asyncio.run(work())
        except KeyboardInterrupt:
            print("Stopped; the schedule is paused until it is served again.")


@contextmanager
def _server() -> Iterator[str]:
    """The server that PREFECT_API_URL names, or one of our own: the temporary server of a single run has no scheduler."""
    from prefect.context import refresh_global_settings_context
    from prefect.settings import PREFECT_API_URL

    if PREFECT_API_URL.value():
        yield str(PREFECT_API_URL.value())
        return
    from flows.server import free_port, prefect_server

    with prefect_server(free_port(), ui=False) as server:
        os.environ.update(server.client)  # the runs are processes of their own
        refresh_global_settings_context()
        try:
            yield server.api
        finally:
            for name in server.client:
                os.environ.pop(name, None)
            refresh_global_settings_context()
