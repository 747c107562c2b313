"""What the project's small web servers share: serving until interrupted, bounded bodies, and who asks."""

import ipaddress
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.types import ASGIApp

MAX_WAITING = 1_024
"""Requests at once; more are told to come again."""


class TooLargeError(ValueError):
    """A body of more bytes than are read."""


def serve(
    app: ASGIApp, host: str, port: int, on_ready: Callable[[int], None], *, max_waiting: int = MAX_WAITING
) -> None:
    """Serve until interrupted; port 0 takes a free one. `on_ready` is called with the port when it listens."""
    import socket

    import uvicorn

    with socket.create_server((host, port)) as listening:
        config = uvicorn.Config(app, log_level="warning", access_log=False, limit_concurrency=max_waiting)
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
