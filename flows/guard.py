"""In front of a page on loopback: only requests made to this very host and port, and by no other page. Standard library only.

A page on the web can send requests to 127.0.0.1 through its visitor's browser, and, once its own name resolves to 127.0.0.1 (DNS rebinding),
read the answers. MLflow checks the host and lets every local page in, Prefect checks neither. Uvicorn runs `app` as a factory.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from importlib import import_module
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

#: Environment variables: what to guard, as `module:name`, with brackets where `name` makes it; the hosts that it may be asked for, by comma.
GUARDED, HOSTS = "EXPOST_GUARDED_APP", "EXPOST_GUARDED_HOSTS"
REFUSAL = b"This server answers to its own address only, and to no other page.\n"


class Guard:
    """An ASGI application that lets a request through to `app` where it names one of `hosts` and comes from no other page."""

    def __init__(self, app: App, hosts: Sequence[str]) -> None:
        self._app = app
        self._hosts = frozenset(host.encode() for host in hosts)
        self._origins = frozenset(b"http://" + host for host in self._hosts)
        places = [f"{scheme}://{host}" for host in sorted(hosts) for scheme in ("http", "ws")]
        self._policy = (b"content-security-policy", f"connect-src 'self' {' '.join(places)}; frame-ancestors 'self'".encode())

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass it on, or answer 403; a websocket is closed before it is opened, which browsers see as 403 too."""
        if scope["type"] not in ("http", "websocket") or self._lets_in(scope.get("method", ""), scope["headers"]):
            await self._app(scope, receive, self._confining(send))
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": REFUSAL})

    def _confining(self, send: Send) -> Send:
        """The pages' own usage statistics, which no setting of the servers turns off before log-in, reach nobody; no other page frames them."""

        async def confined(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), self._policy]
            await send(message)

        return confined

    def _lets_in(self, method: str, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        sent: dict[bytes, list[bytes]] = {}
        for name, value in headers:
            sent.setdefault(name.lower(), []).append(value)
        hosts, origins = sent.get(b"host", []), sent.get(b"origin", [])
        if len(hosts) != 1 or hosts[0] not in self._hosts or len(origins) > 1:
            return False
        if origins:
            return origins[0] in self._origins
        # Browsers send no Origin where a page shows an image or follows a link, but they say so; other clients send neither.
        site, mode, place = (sent.get(b"sec-fetch-" + name, [b""])[0] for name in (b"site", b"mode", b"dest"))
        link = method == "GET" and mode == b"navigate" and place == b"document"
        return site in (b"", b"none", b"same-origin") or link


def app() -> Guard:
    """What the environment names, guarded."""
    module, _, name = os.environ[GUARDED].partition(":")
    guarded = getattr(import_module(module), name.removesuffix("()"))
    return Guard(guarded() if name.endswith("()") else guarded, os.environ[HOSTS].split(","))
