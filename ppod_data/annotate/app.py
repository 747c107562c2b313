"""The web application around a session: one page, three requests, and the images.

What the page shows comes from a stranger's data set: texts are put in as texts, images are decoded and encoded again,
and the page may load nothing but what this server has. Who asks is checked first: the Host header, so that no other
site reaches a loopback address under a name of its own; that a request comes from this page; and beyond loopback the
token of the address.
"""

import hmac
import sys
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio.to_thread
from starlette.applications import Starlette
from starlette.datastructures import URL
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from ppod_data.annotate.session import Session, StaleError, Turn
from ppod_data.dataset.dataset import Dataset
from ppod_data.dataset.image_reader import read_images
from ppod_data.errors import DamagedError, PpodError
from ppod_data.format.images import decode_image, encode_png
from ppod_data.format.prompts import visible
from ppod_data.html.page import PAGE_CSS
from ppod_data.storage.json_reader import parse_json
from ppod_data.support.http import (
    TooLargeError,
    is_json,
    is_loopback,
    is_same_origin,
    read_body,
    requested_host,
)

_ASSETS = Path(__file__).parent / "assets"
_FILES = {
    "/": (_ASSETS / "label.html", "text/html"),
    "/page.css": (PAGE_CSS, "text/css"),
    "/label.css": (_ASSETS / "label.css", "text/css"),
    "/label.js": (_ASSETS / "label.js", "text/javascript"),
}
_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
QUESTION = "Which image is better?"
INSTRUCTIONS = (
    "You will see images that were made for the same text. Choose the one that you like better: which shows what the "
    "text says, and looks good. There are no right answers."
)
_MAX_BODY = 16 << 10
_CACHED_BYTES = 64 << 20
_COOKIE = "ppod_label"
_Act = Callable[[dict[str, Any]], dict[str, Any]]


def label_app(
    dataset: Dataset,
    session: Session,
    *,
    title: str,
    question: str = QUESTION,
    instructions: str = INSTRUCTIONS,
    token: str | None = None,
) -> Starlette:
    """The ASGI application that asks the questions of `session`.

    Args:
        title: what the page says that is judged.
        question: what people are asked about every group of images.
        instructions: how to answer it, shown before the first question.
        token: the address must carry it once, as `/?token=…`; None where only this machine can connect.
    """
    images = _Images(dataset)
    page = {"title": title, "question": question, "instructions": instructions}

    def turn(name: str) -> dict[str, Any]:
        """What the person sees next, with its images in memory; a question whose images are damaged is left out."""
        while True:
            found = session.next(name)
            try:
                images.load(found.shown)
                return _told(found)
            except UnreadableError as error:
                print(f"left out: {error}", file=sys.stderr, flush=True)
                session.withdraw(error.sample_id)

    def then_turn(change: Callable[[dict[str, Any]], None]) -> _Act:
        """A change, then the person's next question; with an error where another page of the person was first."""

        def act(told: dict[str, Any]) -> dict[str, Any]:
            try:
                change(told)
            except StaleError as error:
                return turn(told["annotator"]) | {"error": str(error)}
            return turn(told["annotator"])

        return act

    def answer(told: dict[str, Any]) -> None:
        session.record(told["annotator"], told["number"], told["shown"], told["answer"], told["ticket"])

    def undo(told: dict[str, Any]) -> None:
        session.undo(told["annotator"], told["number"])

    def image(request: Request) -> Response:
        data = images.get(request.path_params["sample_id"])
        return (
            PlainTextResponse("no such image", 404)
            if data is None
            else Response(data, media_type="image/png")
        )

    post = _handler(anyio.CapacityLimiter(1))  # journals are written by one thread
    files = [Route(path, _file(*found)) for path, found in _FILES.items()]
    app = Starlette(
        routes=[
            *files,
            Route("/api/page", lambda request: JSONResponse(page)),
            Route("/favicon.ico", lambda request: Response(status_code=204)),
            Route("/image/{sample_id}", image),
            Route("/api/next", post(lambda told: turn(told["annotator"])), methods=["POST"]),
            Route("/api/answer", post(then_turn(answer)), methods=["POST"]),
            Route("/api/undo", post(then_turn(undo)), methods=["POST"]),
        ]
    )
    app.add_middleware(BaseHTTPMiddleware, dispatch=_guard(token))
    return app


def _handler(limiter: anyio.CapacityLimiter) -> Callable[[_Act], Callable[[Request], Awaitable[Response]]]:
    """What makes request handlers of functions that answer JSON to JSON; those of one limiter never run at once."""

    def post(act: _Act) -> Callable[[Request], Awaitable[Response]]:
        async def handle(request: Request) -> Response:
            try:
                told = _checked(parse_json(await read_body(request, _MAX_BODY)))
                result = await anyio.to_thread.run_sync(act, told, limiter=limiter)
                return JSONResponse(result, 409 if "error" in result else 200)
            except (ValueError, RecursionError, PpodError, OSError) as error:
                return JSONResponse({"error": _reason(error)}, _status(error))

        return handle

    return post


def _status(error: Exception) -> int:
    by_type = {TooLargeError: 413, DamagedError: 500, OSError: 507}
    return next((status for kind, status in by_type.items() if isinstance(error, kind)), 400)


def _reason(error: Exception) -> str:
    return f"the answer could not be kept: {error}" if isinstance(error, OSError) else str(error)


class UnreadableError(DamagedError):
    """The image of one sample cannot be shown."""

    def __init__(self, sample_id: str, reason: str) -> None:
        super().__init__(reason)
        self.sample_id = sample_id


class _Images:
    """Images as PNG, encoded again, the newest in memory."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._kept: OrderedDict[str, bytes] = OrderedDict()

    def load(self, sample_ids: tuple[str, ...]) -> None:
        """Raises UnreadableError for an image that cannot be read."""
        missing = [name for name in sample_ids if name not in self._kept]
        for name, data in read_images(self._dataset.root, self._dataset.spec, missing) if missing else ():
            try:
                self._kept[name] = encode_png(decode_image(data))
            except DamagedError as error:
                raise UnreadableError(name, f"{self._dataset.root}: sample {name}: {error}") from error
        for name in sample_ids:
            if name not in self._kept:
                raise UnreadableError(name, f"{self._dataset.root}: sample {name}: its image is not there")
            self._kept.move_to_end(name)
        while len(self._kept) > len(sample_ids) and sum(map(len, self._kept.values())) > _CACHED_BYTES:
            self._kept.popitem(last=False)

    def get(self, sample_id: str) -> bytes | None:
        return self._kept.get(sample_id)


def _told(found: Turn) -> dict[str, Any]:
    question = found.question
    return {
        "number": found.number,
        "done": found.num_done,
        "wanted": found.num_wanted,
        "prompt": None if question is None else visible(question.prompt),
        "shown": list(found.shown),
        "ticket": found.ticket,
    }


def _checked(told: Any) -> dict[str, Any]:
    """A request as the page makes it. Raises ValueError for another."""
    kinds: dict[str, Any] = {
        "annotator": str,
        "number": int,
        "shown": list,
        "answer": (int, str),
        "ticket": str,
    }
    if not isinstance(told, dict) or "annotator" not in told:
        raise ValueError("a request names its annotator")
    for name, value in told.items():
        if name not in kinds or isinstance(value, bool) or not isinstance(value, kinds[name]):
            raise ValueError(f"{name!r} is not as the page sends it")
    if not all(isinstance(one, str) for one in told.get("shown", [])):
        raise ValueError("shown is a list of ids")
    return {"number": -1, "shown": [], "answer": "", "ticket": "", **told}


def _file(path: Path, media_type: str) -> Callable[[Request], Response]:
    text = path.read_text(encoding="utf-8")
    return lambda request: Response(text, media_type=media_type)


def _guard(token: str | None) -> Callable[[Request, RequestResponseEndpoint], Any]:
    async def guard(request: Request, go_on: RequestResponseEndpoint) -> Response:
        response = _refused(request, token)
        if response is None:
            response = await go_on(request)
        response.headers.update(_HEADERS)
        return response

    return guard


def _refused(request: Request, token: str | None) -> Response | None:
    """The answer to a request that is none of our page's; or the one that keeps the token; None: go on."""
    if token is None and not is_loopback(requested_host(request)):
        return PlainTextResponse("open the address that ppod-pair label printed", 403)
    if request.method == "POST":
        if not is_same_origin(request):
            return PlainTextResponse("a request of another site", 403)
        if not is_json(request):
            return PlainTextResponse("send JSON", 415)
    if token is None:
        return None
    given = request.query_params.get("token")
    if given is not None and _same(given, token):
        answer = RedirectResponse(str(URL(request.url.path or "/")), 303)
        answer.set_cookie(_COOKIE, token, httponly=True, samesite="lax")  # strict fails from a link in a mail
        return answer
    if not _same(request.cookies.get(_COOKIE, ""), token):
        return PlainTextResponse("open the whole address that ppod-pair label printed, with its token", 403)
    return None


def _same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(), token.encode())
