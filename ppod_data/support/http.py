"""What the project's small web servers share: serving until interrupted, bounded bodies, and who asks."""

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
"""Requests at once; more are told to come again."""


class TooLargeError(ValueError):
    """A body of more bytes than are read."""


def listen(host: str, port: int) -> "socket":
    """Take an address before slow work begins; port 0 takes a free one. Raises ConfigError for one that is not free."""
    from socket import create_server

    try:
        return create_server((host, port))
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while")[0]
        raise ConfigError(
            f"cannot serve on {base_url(host, port)}: {reason}: give another --port, or 0 for a free one"
        ) from error


def serve(app: ASGIApp, listening: "socket", on_ready: Callable[[int], None]) -> None:
    """Serve on a socket of `listen` until interrupted. `on_ready` is called with the port when it answers."""
    import uvicorn

    config = uvicorn.Config(app, log_level="warning", access_log=False, limit_concurrency=MAX_WAITING)
    on_ready(listening.getsockname()[1])
    uvicorn.Server(config).run(sockets=[listening])


def base_url(host: str, port: int) -> str:
    """http://HOST:PORT, with an IPv6 address in brackets."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The request's body; nothing beyond `max_bytes` is kept, whatever its header says.

    Raises TooLargeError for more.
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
    """The host that a request names; empty for one that cannot be read."""
    try:
        return urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    """Whether a host is this machine by its address, and no name that another site could point here."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_same_origin(request: Request) -> bool:
    """Whether a request comes from a page of this server, or from no page at all."""
    origin = request.headers.get("origin")
    try:
        return origin is None or urlsplit(origin).netloc == request.headers.get("host")
    except ValueError:
        return False


def is_json(request: Request) -> bool:
    """Whether the body is announced as JSON: a page of another site cannot send that without being asked for."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"
