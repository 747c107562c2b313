"""The web application around a session: one page, three requests, and the images.

What the page shows comes from a stranger's data set: texts are put in as texts, images are decoded and encoded again,
and the page may load nothing but what this server has. Who asks is checked first: the Host header, so that no other
site reaches a loopback address under a name of its own; that a request comes from this page; and beyond loopback the
token of the address.
"""

import hmac
import ipaddress
import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio.to_thread
from starlette.applications import Starlette
from starlette.datastructures import URL
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from ppod_data.dataset import Dataset
from ppod_data.errors import DamagedError, PpodError
from ppod_data.images import decode_image, encode_png
from ppod_data.labelling.session import Session, StaleError, Turn
from ppod_data.prompts import visible
from ppod_data.sample_images import read_images
from ppod_data.web import TooLargeError, read_body

_ASSETS = Path(__file__).parents[1] / "assets"
_FILES = {
    "/": ("label.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/label.css": ("label.css", "text/css"),
    "/label.js": ("label.js", "text/javascript"),
}
_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
_MAX_BODY = 16 << 10
_CACHED_BYTES = 64 << 20
_COOKIE = "ppod_label"


def label_app(dataset: Dataset, session: Session, *, title: str, token: str | None = None) -> Starlette:
    """The ASGI application that asks the questions of `session`.

    Args:
        title: what the page says that is judged.
        token: the address must carry it once, as `/?token=…`; None where only this machine can connect.
    """
    images = _Images(dataset)

    def turn(name: str) -> dict[str, Any]:
        """What the person sees next, with its images in memory."""
        found = session.next(name)
        images.load(found.shown)
        return _told(found, title)

    def answer(told: dict[str, Any]) -> dict[str, Any]:
        session.record(told["annotator"], told["number"], told["shown"], told["answer"])
        return turn(told["annotator"])

    def undo(told: dict[str, Any]) -> dict[str, Any]:
        session.undo(told["annotator"], told["number"])
        return turn(told["annotator"])

    def image(request: Request) -> Response:
        data = images.get(request.path_params["sample_id"])
        return (
            PlainTextResponse("no such image", 404)
            if data is None
            else Response(data, media_type="image/png")
        )

    one_at_a_time = anyio.CapacityLimiter(1)  # journals are written by one thread

    def post(act: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Request], Any]:
        async def handle(request: Request) -> Response:
            try:
                told = _checked(json.loads(await read_body(request, _MAX_BODY)))
                return JSONResponse(await anyio.to_thread.run_sync(act, told, limiter=one_at_a_time))
            except StaleError as error:
                return JSONResponse({"error": str(error)}, 409)
            except TooLargeError as error:
                return JSONResponse({"error": str(error)}, 413)
            except DamagedError as error:
                return JSONResponse({"error": str(error)}, 500)
            except (ValueError, RecursionError, PpodError) as error:
                return JSONResponse({"error": str(error)}, 400)
            except OSError as error:
                return JSONResponse({"error": f"the answer could not be kept: {error}"}, 507)

        return handle

    files = [Route(path, _file(*found)) for path, found in _FILES.items()]
    app = Starlette(
        routes=[
            *files,
            Route("/favicon.ico", lambda request: Response(status_code=204)),
            Route("/image/{sample_id}", image),
            Route("/api/next", post(lambda told: turn(told["annotator"])), methods=["POST"]),
            Route("/api/answer", post(answer), methods=["POST"]),
            Route("/api/undo", post(undo), methods=["POST"]),
        ]
    )
    app.add_middleware(BaseHTTPMiddleware, dispatch=_guard(token))
    return app


class _Images:
    """Images as PNG, encoded again, the newest in memory."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._kept: OrderedDict[str, bytes] = OrderedDict()

    def load(self, sample_ids: tuple[str, ...]) -> None:
        """Raises DamagedError for an image that cannot be read."""
        missing = [name for name in sample_ids if name not in self._kept]
        for name, data in read_images(self._dataset, missing) if missing else ():
            self._kept[name] = encode_png(decode_image(data))
        for name in sample_ids:
            if name not in self._kept:
                raise DamagedError(
                    f"{self._dataset.root}: the image of sample {name} is not there: get it again"
                )
            self._kept.move_to_end(name)
        while len(self._kept) > len(sample_ids) and sum(map(len, self._kept.values())) > _CACHED_BYTES:
            self._kept.popitem(last=False)

    def get(self, sample_id: str) -> bytes | None:
        return self._kept.get(sample_id)


def _told(found: Turn, title: str) -> dict[str, Any]:
    question = found.question
    return {
        "title": title,
        "number": found.number,
        "done": found.num_done,
        "wanted": found.num_wanted,
        "prompt": None if question is None else visible(question.prompt),
        "shown": list(found.shown),
    }


def _checked(told: Any) -> dict[str, Any]:
    """A request as the page makes it. Raises ValueError for another."""
    kinds: dict[str, Any] = {"annotator": str, "number": int, "shown": list, "answer": (int, str)}
    if not isinstance(told, dict) or "annotator" not in told:
        raise ValueError("a request names its annotator")
    for name, value in told.items():
        if name not in kinds or isinstance(value, bool) or not isinstance(value, kinds[name]):
            raise ValueError(f"{name!r} is not as the page sends it")
    if not all(isinstance(one, str) for one in told.get("shown", [])):
        raise ValueError("shown is a list of ids")
    return {"number": -1, "shown": [], "answer": "", **told}


def _file(name: str, media_type: str) -> Callable[[Request], Response]:
    text = (_ASSETS / name).read_text(encoding="utf-8")
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
    host = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    if token is None and not _is_loopback(host):
        return PlainTextResponse("open the address that ppod-pair label printed", 403)
    if request.method == "POST":
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
            return PlainTextResponse("a request of another site", 403)
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
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


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
