"""A real S3 server on the loopback, moto's, that can fail as stores and networks do."""

import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

BUCKET = "bucket"
SLOW_DOWN, ERROR, HANG, CUT_UPLOAD, CUT_ANSWER, CUT_BODY, CONFLICT = (
    *("slow-down", "error", "hang", "cut-upload", "cut-answer", "cut-body", "conflict"),
)
_ANSWERS = {
    SLOW_DOWN: ("503 Slow Down", "SlowDown"),
    ERROR: ("500 Internal Server Error", "InternalError"),
    CONFLICT: ("409 Conflict", "ConditionalRequestConflict"),
}
_HANG_SECONDS = 5.0


@dataclass(frozen=True)
class Request:
    """What was asked."""

    method: str
    key: str
    """Without the bucket; "" for requests about the bucket, such as listings."""
    query: str
    range: str

    def __str__(self) -> str:
        return f"{self.method} /{self.key}?{self.query} {self.range}".strip()


@dataclass
class Server:
    """The server: what it was asked, and how it fails."""

    requests: list[tuple[Request, str]] = field(default_factory=list)
    """Each with the answer's status, or the kind of failure."""
    fault: Callable[[Request, int], str | None] = lambda request, count: None
    """The failure of a request, which was seen `count` times before; None: it is answered."""
    port: int = 0
    ended: threading.Event = field(default_factory=threading.Event)
    _seen: dict[Request, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which commands find the server: each request is tried by fsspec and by ours."""
        return {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_MAX_ATTEMPTS": "1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "FSSPEC_S3": '{"config_kwargs": {"read_timeout": 1}}',
        }

    @contextmanager
    def failing(self, fault: Callable[[Request, int], str | None]) -> Iterator[list[tuple[Request, str]]]:
        """Fail meanwhile; yields the requests of this time."""
        self.fault, self._seen = fault, {}
        start = len(self.requests)
        asked: list[tuple[Request, str]] = []
        try:
            yield asked
        finally:
            self.fault = lambda request, count: None
            asked += self.requests[start:]

    def wrap(self, app: Any) -> Any:
        """The WSGI application of the server, failing."""

        def served(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            path = environ["PATH_INFO"].removeprefix(f"/{BUCKET}").lstrip("/")
            request = Request(
                environ["REQUEST_METHOD"], path, environ["QUERY_STRING"], environ.get("HTTP_RANGE", "")
            )
            with self._lock:
                count = self._seen.get(request, 0)
                self._seen[request] = count + 1
                kind = self.fault(request, count)
                if kind:
                    self.requests.append((request, kind))
            if kind is not None:
                return self._fail(kind, app, environ, start_response)

            def noted(status: str, headers: Any, *rest: Any) -> Any:
                self.requests.append((request, status.split()[0]))
                return start_response(status, headers, *rest)

            answer: Iterable[bytes] = app(environ, noted)
            return answer

        return served

    def _fail(self, kind: str, app: Any, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        connection: socket.socket = environ["werkzeug.socket"]
        length = int(environ.get("CONTENT_LENGTH") or 0)
        if kind in _ANSWERS:
            environ["wsgi.input"].read(length)
            status, code = _ANSWERS[kind]
            body = (
                f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
            )
            start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
            return [body]
        if kind == HANG:
            self.ended.wait(_HANG_SECONDS)
        elif kind == CUT_UPLOAD:
            environ["wsgi.input"].read(length // 2)
        else:
            sent: list[Any] = []
            data = b"".join(app(environ, lambda status, headers, *rest: sent.append((status, headers))))
            if kind == CUT_BODY:
                start_response(*sent[0])
                return _half(data, connection)
        connection.shutdown(socket.SHUT_RDWR)
        return []


def _half(data: bytes, connection: socket.socket) -> Iterator[bytes]:
    yield data[: len(data) // 2]
    connection.shutdown(socket.SHUT_RDWR)


class _Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, *arguments: Any, **options: Any) -> None:
        pass


@contextmanager
def serve() -> Iterator[Server]:
    """A server with an empty bucket; stopped at the end."""
    import boto3
    from fsspec.config import conf, set_conf_env
    from s3fs import S3FileSystem

    server = Server()
    app = server.wrap(DomainDispatcherApplication(create_backend_app))
    running = make_server("127.0.0.1", 0, app, threaded=True, request_handler=_Quiet)
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    server.port = running.server_port
    before, retries = dict(os.environ), S3FileSystem.retries
    os.environ |= server.environment
    set_conf_env(conf)
    S3FileSystem.retries = 1  # in this process, so that ours are what is tested
    try:
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield server
    finally:
        os.environ.clear()
        os.environ.update(before)
        conf.pop("s3")
        S3FileSystem.retries = retries
        server.ended.set()
        running.shutdown()
        thread.join()
        running.server_close()
