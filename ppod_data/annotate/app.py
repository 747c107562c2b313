"""Web application around a session: one page, three requests and the images.

The data set is untrusted input. Texts are inserted as text, images are decoded and encoded again, and the page may
load only what this server serves. `guard` checks requests first.
"""

import sys
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import anyio.to_thread
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from ppod_data.annotate.access import guard
from ppod_data.annotate.question_images import Unreadable, read_question_images
from ppod_data.annotate.session import Session, StaleError, Turn
from ppod_data.dataset.dataset import Dataset
from ppod_data.errors import DamagedError, PpodError
from ppod_data.format.images import encode_png
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
        return _turn_json(_next_turn(session, images, name))

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


class _Images:
    """Re-encoded PNG images; the most recent ones stay in memory."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._kept: OrderedDict[str, bytes] = OrderedDict()

    def load(self, sample_ids: tuple[str, ...]) -> list[Unreadable]:
        """Load images into memory. Return the samples whose images cannot be shown."""
        missing = [name for name in sample_ids if name not in self._kept]
        images, unreadable = read_question_images(self._dataset, missing) if missing else ({}, [])
        self._kept.update((name, encode_png(image)) for name, image in images.items())
        for name in sample_ids:
            if name in self._kept:
                self._kept.move_to_end(name)
        while len(self._kept) > len(sample_ids) and sum(map(len, self._kept.values())) > _CACHED_BYTES:
            self._kept.popitem(last=False)
        return unreadable

    def get(self, sample_id: str) -> bytes | None:
        return self._kept.get(sample_id)


def _next_turn(session: Session, images: _Images, name: str) -> Turn:
    """Return the person's next question with its images in memory. Withdraw questions whose images cannot be shown.

    Raises:
        PpodError: the system does not let this process read the images of any question that is left. These questions
            stay open, since the reason may pass; the page must not take this for an answer that was not recorded.
    """
    refused: list[Unreadable] = []
    while True:
        turn = session.next(name)
        if turn.question is None and refused:
            session.restore(frozenset().union(*(each.sample_ids for each in refused)))
            raise PpodError(f"the images cannot be read: {refused[0].reason}") from refused[0].refusal
        unreadable = images.load(turn.shown)
        if not unreadable:
            _report(refused)
            return turn
        session.withdraw(frozenset().union(*(each.sample_ids for each in unreadable)))
        _report([each for each in unreadable if each.refusal is None])
        refused += [each for each in unreadable if each.refusal is not None]


def _report(unreadable: Sequence[Unreadable]) -> None:
    """Print why questions are left out, on the terminal of the server."""
    for each in unreadable:
        print(f"left out: {each.reason}", file=sys.stderr, flush=True)


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
