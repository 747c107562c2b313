"""Web application around a session: one page, three requests and the images.

The data set is untrusted input. Texts are inserted as text, images are decoded and encoded again, and the page may
load only what this server serves. `guard` checks requests first.
"""

import sys
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio.to_thread
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from ppod_data.annotate.access import guard
from ppod_data.annotate.session import Session, StaleError, Turn
from ppod_data.dataset.dataset import Dataset
from ppod_data.dataset.image_reader import read_images
from ppod_data.errors import DamagedError, PpodError
from ppod_data.format.images import decode_image, encode_png
from ppod_data.format.prompts import visible
from ppod_data.html.page import PAGE_CSS
from ppod_data.storage.json_reader import parse_json
from ppod_data.support.http import TooLargeError, read_body

_ASSETS = Path(__file__).parent / "assets"
_FILES = {
    "/": (_ASSETS / "label.html", "text/html"),
    "/page.css": (PAGE_CSS, "text/css"),
    "/label.css": (_ASSETS / "label.css", "text/css"),
    "/label.js": (_ASSETS / "label.js", "text/javascript"),
}
QUESTION = "Which image is better?"
INSTRUCTIONS = (
    "You will see images that were made for the same text. Choose the image that you prefer: it shows what the text "
    "says, and it looks good. There are no right answers."
)
_MAX_BODY = 16 << 10
_CACHED_BYTES = 64 << 20
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
    """Build the ASGI application that asks the questions of `session`.

    Args:
        title: title of the page: what is judged.
        question: the question about every group of images.
        instructions: how to answer it, shown before the first question.
        token: secret that the address must carry once, as `/?token=…`; None if only this machine can connect.
    """
    images = _Images(dataset)
    page = {"title": title, "question": question, "instructions": instructions}

    def turn(name: str) -> dict[str, Any]:
        """Return the person's next question with its images in memory; skip questions whose images are damaged."""
        while True:
            next_turn = session.next(name)
            try:
                images.load(next_turn.shown)
                return _turn_json(next_turn)
            except UnreadableError as unreadable:
                print(f"left out: {unreadable}", file=sys.stderr, flush=True)
                session.withdraw(unreadable.sample_id)

    def then_turn(change: Callable[[dict[str, Any]], None]) -> _Act:
        """Return an action that makes a change and returns the next question.

        If another page of the person was faster, the result also has an error.
        """

        def act(request: dict[str, Any]) -> dict[str, Any]:
            try:
                change(request)
            except StaleError as error:
                return turn(request["annotator"]) | {"error": str(error)}
            return turn(request["annotator"])

        return act

    def answer(request: dict[str, Any]) -> None:
        session.record(
            request["annotator"], request["number"], request["shown"], request["answer"], request["ticket"]
        )

    def undo(request: dict[str, Any]) -> None:
        session.undo(request["annotator"], request["number"])

    def image(request: Request) -> Response:
        data = images.get(request.path_params["sample_id"])
        return (
            PlainTextResponse("no such image", 404)
            if data is None
            else Response(data, media_type="image/png")
        )

    post = _handler(anyio.CapacityLimiter(1))  # only one thread writes journals
    files = [Route(path, _file(*file)) for path, file in _FILES.items()]
    app = Starlette(
        routes=[
            *files,
            Route("/api/page", lambda request: JSONResponse(page)),
            Route("/favicon.ico", lambda request: Response(status_code=204)),
            Route("/image/{sample_id}", image),
            Route("/api/next", post(lambda request: turn(request["annotator"])), methods=["POST"]),
            Route("/api/answer", post(then_turn(answer)), methods=["POST"]),
            Route("/api/undo", post(then_turn(undo)), methods=["POST"]),
        ]
    )
    app.add_middleware(BaseHTTPMiddleware, dispatch=guard(token))
    return app


def _handler(limiter: anyio.CapacityLimiter) -> Callable[[_Act], Callable[[Request], Awaitable[Response]]]:
    """Return a decorator that makes request handlers of functions from JSON to JSON.

    Handlers of one limiter never run concurrently.
    """

    def post(act: _Act) -> Callable[[Request], Awaitable[Response]]:
        async def handle(request: Request) -> Response:
            try:
                request_json = _check_request(parse_json(await read_body(request, _MAX_BODY)))
                result = await anyio.to_thread.run_sync(act, request_json, limiter=limiter)
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
    """The image of a sample cannot be shown."""

    def __init__(self, sample_id: str, reason: str) -> None:
        super().__init__(reason)
        self.sample_id = sample_id


class _Images:
    """Re-encoded PNG images; the most recent ones stay in memory."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._kept: OrderedDict[str, bytes] = OrderedDict()

    def load(self, sample_ids: tuple[str, ...]) -> None:
        """Load images into memory.

        Raises:
            UnreadableError: an image cannot be read.
            PpodError: the system does not let this process read the images.
        """
        missing = [name for name in sample_ids if name not in self._kept]
        try:
            files = dict(read_images(self._dataset.root, self._dataset.spec, missing) if missing else ())
        except OSError as error:  # the page must not take this for an answer that was not recorded
            raise PpodError(f"the images cannot be read: {error}") from error
        for name, data in files.items():
            try:
                self._kept[name] = encode_png(decode_image(data))
            except DamagedError as error:
                raise UnreadableError(name, f"{self._dataset.root}: sample {name}: {error}") from error
        for name in sample_ids:
            if name not in self._kept:
                raise UnreadableError(name, f"{self._dataset.root}: sample {name}: the image is missing")
            self._kept.move_to_end(name)
        while len(self._kept) > len(sample_ids) and sum(map(len, self._kept.values())) > _CACHED_BYTES:
            self._kept.popitem(last=False)

    def get(self, sample_id: str) -> bytes | None:
        return self._kept.get(sample_id)


def _turn_json(turn: Turn) -> dict[str, Any]:
    question = turn.question
    return {
        "number": turn.number,
        "done": turn.num_done,
        "wanted": turn.num_wanted,
        "prompt": None if question is None else visible(question.prompt),
        "shown": list(turn.shown),
        "ticket": turn.ticket,
    }


def _check_request(request: Any) -> dict[str, Any]:
    """Check a request of the page and fill in missing fields.

    Raises:
        ValueError: a field that the page does not send, or of another type.
    """
    types: dict[str, Any] = {
        "annotator": str,
        "number": int,
        "shown": list,
        "answer": (int, str),
        "ticket": str,
    }
    if not isinstance(request, dict) or "annotator" not in request:
        raise ValueError("annotator is missing: expected the person's name")
    for name, value in request.items():
        if name not in types or isinstance(value, bool) or not isinstance(value, types[name]):
            raise ValueError(f"{name!r} is not a field of this type: reload the page")
    if not all(isinstance(sample_id, str) for sample_id in request.get("shown", [])):
        raise ValueError("shown: expected a list of sample ids")
    return {"number": -1, "shown": [], "answer": "", "ticket": "", **request}


def _file(path: Path, media_type: str) -> Callable[[Request], Response]:
    text = path.read_text(encoding="utf-8")
    return lambda request: Response(text, media_type=media_type)
