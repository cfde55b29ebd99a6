"""`expost ui` and the temporary server of a run: who asks for another host, from another page or without the password gets nothing."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import os
import re
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from flows.server import free_port

UI = """
import sys
from flows.cli import main
sys.argv = ["expost", "ui", "--mlflow-port", sys.argv[1], "--prefect-port", sys.argv[2]]
main()
"""
EVIL = "http://evil.example"


@dataclass(frozen=True)
class Page:
    """A running page: its port, and how to ask it."""

    port: int
    auth: str | None
    folder: Path
    process: subprocess.Popen[str]

    @property
    def own(self) -> str:
        return f"127.0.0.1:{self.port}"

    def ask(self, path: str, method: str = "GET", body: Any = None, **headers: str) -> tuple[int, str]:
        """Status and text of the answer; `Host` is the page's own unless it is given, other headers only where they are."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.putrequest(method, path, skip_host=True)
            sent = b"" if body is None else json.dumps(body).encode()
            for name, value in {"Host": self.own, "Content-Type": "application/json", "Content-Length": str(len(sent)), **headers}.items():
                connection.putheader(name.replace("_", "-"), value)
            connection.endheaders(sent)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")
        finally:
            connection.close()

    def signed(self) -> dict[str, str]:
        return {} if self.auth is None else {"Authorization": f"Basic {base64.b64encode(self.auth.encode()).decode()}"}

    def token(self) -> dict[str, str]:
        """The headers that Prefect's own page sends against forged requests."""
        status, text = self.ask("/api/csrf-token?client=test", **self.signed())
        assert status == 200, text
        return {"Prefect-Csrf-Client": "test", "Prefect-Csrf-Token": json.loads(text)["token"]}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Page]]:
    """`expost ui` in a folder with nothing but params.yaml."""
    folder = tmp_path_factory.mktemp("ui")
    (folder / "params.yaml").write_text(yaml.safe_dump({"registry": {"model": "shown"}}))
    ports = {"mlflow": free_port()}
    ports["prefect"] = next(port for port in iter(free_port, 0) if port != ports["mlflow"])
    with (folder / "out").open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", UI, *map(str, ports.values())], cwd=folder, stdout=out, stderr=subprocess.STDOUT, text=True
        )
    try:
        deadline = time.monotonic() + 240
        while "Ctrl-C" not in (folder / "out").read_text():
            assert process.poll() is None and time.monotonic() < deadline, (folder / "out").read_text()
            time.sleep(0.2)
        auth = (folder / ".dvc/tmp/prefect-password").read_text().strip()
        yield {name: Page(port, auth if name == "prefect" else None, folder, process) for name, port in ports.items()}
    finally:
        process.terminate()
        process.wait(60)
    assert not (folder / ".dvc/tmp/prefect-password").exists()


ASKED = {  # page, method, path, body; what the page itself may do
    "mlflow's page": ("mlflow", "GET", "/", None),
    "mlflow's health": ("mlflow", "GET", "/health", None),
    "mlflow reads": ("mlflow", "GET", "/ajax-api/2.0/mlflow/experiments/search?max_results=9", None),
    "mlflow reads by POST": ("mlflow", "POST", "/api/2.0/mlflow/runs/search", {"experiment_ids": ["0"]}),
    "mlflow's files": ("mlflow", "GET", "/version", None),
    "prefect's page": ("prefect", "GET", "/", None),
    "prefect's health": ("prefect", "GET", "/api/health", None),
    "prefect's settings": ("prefect", "GET", "/ui-settings", None),
    "prefect reads": ("prefect", "GET", "/api/admin/version", None),
    "prefect reads by POST": ("prefect", "POST", "/api/flows/filter", {}),
    "prefect writes": ("prefect", "POST", "/api/flows/", {"name": "by its own page"}),
}
FOREIGN = {
    "another host": {"Host": "evil.example"},
    "a host that looks private": {"Host": "10.evil.example"},
    "a rebound name with the port": {"Host": "127.0.0.1.evil.example:{port}"},
    "another port": {"Host": "127.0.0.1:1"},
    "no port": {"Host": "127.0.0.1"},
    "no host": {"Host": ""},
    "another page": {"Origin": EVIL},
    "another page on this machine": {"Origin": "http://localhost:8888"},
    "another scheme": {"Origin": "https://127.0.0.1:{port}"},
    "a page without a name": {"Origin": "null"},
    "an image on another page": {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"},
    "a frame on another page": {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
}


def request(pages: dict[str, Page], asked: str, headers: dict[str, str]) -> tuple[int, str]:
    page, method, path, body = ASKED[asked]
    known = pages[page].signed()
    if method == "POST" and page == "prefect":
        known |= pages[page].token()
    return pages[page].ask(path, method, body, **known, **{name: value.format(port=pages[page].port) for name, value in headers.items()})


@pytest.mark.parametrize("asked", ASKED)
def test_the_page_itself_and_a_client_are_answered(pages: dict[str, Page], asked: str) -> None:
    port = pages[ASKED[asked][0]].port
    own: list[dict[str, str]] = [{}, {"Origin": f"http://127.0.0.1:{port}"}]
    own += [
        {"Host": f"localhost:{port}", "Origin": f"http://localhost:{port}"},
        {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"},
    ]
    for headers in own:
        status, text = request(pages, asked, headers)
        assert status in (200, 201), (headers, text[:300])


@pytest.mark.parametrize("foreign", FOREIGN)
@pytest.mark.parametrize("asked", ASKED)
def test_another_host_or_page_is_refused_even_with_the_password(pages: dict[str, Page], asked: str, foreign: str) -> None:
    status, text = request(pages, asked, FOREIGN[foreign])
    assert status in (400, 403), text[:300]


def test_a_link_from_elsewhere_may_be_followed_but_changes_nothing(pages: dict[str, Page]) -> None:
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    for page in pages.values():
        assert page.ask("/", **link)[0] in (200, 307)  # Prefect sends on to its newer page
        assert page.ask("/", "POST", {}, **link)[0] == 403


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Basic " + base64.b64encode(b"expost:guessed").decode()}, {"Authorization": "x"}]
)
@pytest.mark.parametrize(
    "asked", [name for name in ASKED if ASKED[name][2].startswith("/api") and ASKED[name][0] == "prefect" and "health" not in name]
)
def test_prefect_asks_for_the_password(pages: dict[str, Page], asked: str, headers: dict[str, str]) -> None:
    _, method, path, body = ASKED[asked]
    assert pages["prefect"].ask(path, method, body, **headers, **pages["prefect"].token())[0] == 401


def test_prefect_refuses_a_change_without_its_token(pages: dict[str, Page]) -> None:
    status, text = pages["prefect"].ask("/api/flows/", "POST", {"name": "forged"}, **pages["prefect"].signed())
    assert (status, "CSRF" in text) == (403, True)


def test_the_pages_may_speak_to_this_machine_alone_and_stand_in_no_others_frame(pages: dict[str, Page]) -> None:
    """Prefect's page loads a service of usage statistics before anybody could turn that off."""
    for page in pages.values():
        connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=30)
        connection.request("GET", "/", headers={"Host": page.own})
        policy = connection.getresponse().getheader("Content-Security-Policy") or ""
        connection.close()
        connect_to, frames = policy.split("; ")
        assert re.fullmatch(r"connect-src 'self'( (http|ws)://(127\.0\.0\.1|localhost):\d+){4}", connect_to)
        assert frames == "frame-ancestors 'self'"


def test_no_other_page_may_read_an_answer(pages: dict[str, Page]) -> None:
    for page in pages.values():
        connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=30)
        asks = {"Host": page.own, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        connection.request("OPTIONS", "/api/flows/filter", headers={**asks, "Origin": EVIL})
        answer = connection.getresponse()
        assert (answer.status, answer.getheader("Access-Control-Allow-Origin")) == (403, None)
        connection.close()


SOCKETS = ("/api/events/in", "/api/events/out", "/api/logs/out", "/api/task_runs/subscriptions/scheduled")


async def speak(page: Page, path: str, token: str | None, **headers: str) -> str:
    """What becomes of a websocket: the status that refused it, the code that closed it, or the first message."""
    protocols: Any = None if token is None else ["prefect"]
    host = headers.pop("Host", page.own)
    try:
        # the address in the request is the Host header, the place to connect to is loopback
        async with connect(
            f"ws://{host}{path}", host="127.0.0.1", port=page.port, subprotocols=protocols, additional_headers=headers, proxy=None
        ) as socket:
            if token is not None:
                await socket.send(json.dumps({"type": "auth", "token": token}))
            return str(json.loads(await asyncio.wait_for(socket.recv(), 20))["type"])
    except InvalidStatus as error:
        return str(error.response.status_code)
    except ConnectionClosed as error:
        assert error.rcvd is not None
        return str(error.rcvd.code)


@pytest.mark.parametrize("path", SOCKETS)
def test_a_websocket_needs_the_password_this_host_and_this_page(pages: dict[str, Page], path: str) -> None:
    page = pages["prefect"]
    assert page.auth is not None

    def of(token: str | None, **headers: str) -> str:
        return asyncio.run(speak(page, path, token, **headers))

    assert of(page.auth) == "auth_success"
    assert of(page.auth, Origin=f"http://{page.own}") == "auth_success"
    assert of("") == of("guessed") == "1008"
    assert of(None) in ("403", "1002")
    assert of(page.auth, Origin=EVIL) == of(page.auth, Origin="null") == of(page.auth, Host="evil.example") == "403"


def test_only_loopback_is_listened_on(pages: dict[str, Page]) -> None:
    (process,) = {page.process for page in pages.values()}
    listening = [
        connection.laddr.ip
        for child in psutil.Process(process.pid).children(recursive=True)
        for connection in child.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert set(listening) == {"127.0.0.1"}
    assert len(listening) == len(pages)


def test_the_password_is_in_one_file_for_its_owner_and_nowhere_else(pages: dict[str, Page]) -> None:
    page = pages["prefect"]
    assert page.auth is not None
    secret = page.auth.split(":")[1]
    assert len(secret) >= 32
    place = page.folder / ".dvc/tmp/prefect-password"
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    assert "prefect-password" in (page.folder / "out").read_text()
    holders = [path for path in page.folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
    assert holders == [place]
    lines = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    assert not [line for line in lines if secret in line]


def test_prefects_page_asks_for_the_password(pages: dict[str, Page]) -> None:
    settings = json.loads(pages["prefect"].ask("/ui-settings")[1])
    assert (settings["auth"], settings["csrf_enabled"]) == ("BASIC", True)
    assert settings["api_url"] == f"http://{pages['prefect'].own}/api"


TEMPORARY = """
import os, re, sys, urllib.error, urllib.request
from flows.cli import running
running._start_server()
from prefect.client.orchestration import get_client
with get_client(sync_client=True) as client:
    url = str(client.api_url)
    print(len(client.read_flows()), "flows")
for headers in ({}, {"Host": "evil.example"}, {"Origin": "http://evil.example"}):
    request = urllib.request.Request(url.rstrip("/") + "/flows/filter", b"{}", {"Content-Type": "application/json", **headers})
    try:
        urllib.request.urlopen(request)
        print("answered")
    except urllib.error.HTTPError as error:
        print(error.code, error.headers.get("Access-Control-Allow-Origin"))
"""


def test_the_temporary_server_of_a_run_answers_that_run_alone(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    done = subprocess.run([sys.executable, "-c", TEMPORARY], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    flows, *refused = done.stdout.split("\n")[:4]
    assert re.fullmatch(r"\d+ flows", flows)
    assert [line.split()[0] for line in refused] == ["403"] * 3 or [line.split()[0] for line in refused] == ["401"] * 3
    assert not [line for line in refused if EVIL in line or "*" in line]
