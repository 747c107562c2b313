"""What the project's small web servers share: serving until interrupted, and bodies that are bounded."""

from collections.abc import Callable

from starlette.requests import Request
from starlette.types import ASGIApp

MAX_WAITING = 32
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
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise too_large
    return bytes(body)
