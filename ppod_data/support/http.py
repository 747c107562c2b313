"""Helpers shared by the small web servers: listening sockets, bounded bodies, and origin checks."""

import ipaddress
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.types import ASGIApp

from ppod_data.errors import ConfigError

if TYPE_CHECKING:
    from socket import socket

MAX_WAITING = 1_024
"""Concurrent requests; further ones are rejected with status 503."""


class TooLargeError(ValueError):
    """A request body larger than the server accepts."""


def listen(host: str, port: int) -> "socket":
    """Bind a socket before slow work begins. Port 0 selects a free port.

    Raises:
        ConfigError: the address is not available.
    """
    from socket import create_server

    try:
        return create_server((host, port))
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while")[0]
        raise ConfigError(
            f"cannot serve on {base_url(host, port)}: {reason}: give another --port, or 0 for a free one"
        ) from error


def serve(app: ASGIApp, listening: "socket", on_ready: Callable[[int], None]) -> None:
    """Serve on a socket from `listen` until interrupted. Call `on_ready` with the port before serving."""
    import uvicorn

    config = uvicorn.Config(app, log_level="warning", access_log=False, limit_concurrency=MAX_WAITING)
    on_ready(listening.getsockname()[1])
    uvicorn.Server(config).run(sockets=[listening])


def base_url(host: str, port: int) -> str:
    """Return http://HOST:PORT, with an IPv6 address in brackets."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Return the request's body. At most `max_bytes` bytes are kept, whatever the content-length header says.

    Raises:
        TooLargeError: the body is larger.
    """
    too_large = TooLargeError(f"a request may have {max_bytes} bytes")
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise too_large
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        chunks.append(chunk)
        size += len(chunk)
        if size > max_bytes:
            raise too_large
    return b"".join(chunks)


def requested_host(request: Request) -> str:
    """Return the host that a request names, or an empty string if its Host header cannot be parsed."""
    try:
        return urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    """Return true for a loopback address or "localhost". Other names are false, because DNS could point them here."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_same_origin(request: Request) -> bool:
    """Return true for a request from a page of this server, or without an Origin header."""
    origin = request.headers.get("origin")
    try:
        return origin is None or urlsplit(origin).netloc == request.headers.get("host")
    except ValueError:
        return False


def is_json(request: Request) -> bool:
    """Return true if the body is declared as JSON. Pages of another site cannot send that without a CORS preflight."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"
