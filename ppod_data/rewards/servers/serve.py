"""The server of `ppod-score --serve`: a reward model over HTTP, for `RemoteReward`. docs/rewards.md has the protocol.

One model scores one batch at a time; concurrent requests wait, most of them unread. A request is bounded in
bytes before it is read, in values before its JSON is parsed, and in pixels before an image is decoded. Requests
from pages of other sites are rejected, because a browser would forward them to this machine.
"""

import base64
import binascii
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ppod_data.errors import DamagedError, PpodError
from ppod_data.format.images import decode_image
from ppod_data.rewards.each import score_each
from ppod_data.rewards.servers.protocol import MAX_BYTES, MAX_PIXELS, VERSION
from ppod_data.storage.json_reader import parse_json
from ppod_data.support.http import (
    TooLargeError,
    is_json,
    is_loopback,
    is_same_origin,
    read_body,
    requested_host,
)
from ppod_data.support.runtime import is_out_of_memory

if TYPE_CHECKING:
    from ppod_data.rewards import RewardModel


_READ_AT_ONCE = 4
"""Bodies in memory: the next ones are read while one is scored."""
_BODY_SECONDS = 120
_MARKS = (b",", b"[", b"{")
"""Bytes that precede every JSON value; a value may take a hundred times its bytes in memory."""
_MAX_MARKS = 1_024
_MARKS_OF_AN_IMAGE = 20_000
"""Marks allowed an image. Base64 has none, but a prompt may."""


class _Refused(Exception):
    """A rejected request, with status and reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def reward_app(
    reward: "RewardModel",
    *,
    max_images: int,
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
    only_loopback: bool = False,
) -> Starlette:
    """Return the ASGI application that scores with `reward`.

    Args:
        reward: the model.
        max_images: the most images of a request.
        max_bytes: the most bytes of a request's body.
        max_pixels: the most pixels of all images of a request.
        only_loopback: reject requests for a host name other than this machine's loopback, such as a name that
            another site resolves to this machine.
    """
    one_at_a_time = anyio.CapacityLimiter(1)
    read_at_once = anyio.CapacityLimiter(_READ_AT_ONCE)

    def check(request: Request) -> None:
        if only_loopback and not is_loopback(requested_host(request)):
            raise _Refused(403, "use the address that ppod-score printed, or serve with --host")
        if not is_same_origin(request):
            raise _Refused(403, "the request comes from another site")
        if request.method == "POST" and not is_json(request):
            raise _Refused(415, "send JSON: Content-Type: application/json")

    async def identity(request: Request) -> Response:
        try:
            check(request)
        except _Refused as refused:
            return JSONResponse({"error": str(refused)}, refused.status)
        limits = {"max_images": max_images, "max_pixels": max_pixels, "max_bytes": max_bytes}
        return JSONResponse({"protocol": VERSION, "name": reward.name, "revision": reward.revision, **limits})

    async def score(request: Request) -> Response:
        try:
            check(request)
            async with read_at_once:  # further requests wait unread
                prompts, encoded = _read(await _body(request, max_bytes), max_images)
                results = await anyio.to_thread.run_sync(
                    lambda: _results(reward, prompts, encoded, max_pixels), limiter=one_at_a_time
                )
        except ClientDisconnect:
            return Response(status_code=499)
        except _Refused as refused:
            return JSONResponse({"error": str(refused)}, refused.status)
        return JSONResponse({"name": reward.name, "revision": reward.revision, "results": results})

    return Starlette(routes=[Route("/", identity), Route("/score", score, methods=["POST"])])


async def _body(request: Request, max_bytes: int) -> bytes:
    try:
        with anyio.fail_after(_BODY_SECONDS):
            return await read_body(request, max_bytes)
    except TimeoutError as error:
        raise _Refused(408, f"the request did not arrive in {_BODY_SECONDS} seconds") from error
    except TooLargeError as error:
        raise _Refused(413, f"{error}: send fewer images") from error


def _read(body: bytes, max_images: int) -> tuple[list[str], list[str]]:
    if sum(map(body.count, _MARKS)) > _MAX_MARKS + max_images * _MARKS_OF_AN_IMAGE:
        raise _Refused(
            400,
            "the request must be a list of prompts and one of images, but its JSON holds very many values",
        )
    try:
        value: Any = parse_json(body)
    except (ValueError, RecursionError) as error:
        raise _Refused(400, f"the request is not JSON: {error}") from error
    prompts, images = _texts(value, "prompts"), _texts(value, "images")
    if len(prompts) != len(images):
        raise _Refused(400, f"{len(prompts)} prompts for {len(images)} images: give one prompt an image")
    if len(images) > max_images:
        raise _Refused(413, f"{len(images)} images, but a request may have {max_images}: send fewer")
    return prompts, images


def _texts(value: Any, key: str) -> list[str]:
    texts = value.get(key) if isinstance(value, dict) else None
    if not (isinstance(texts, list) and all(isinstance(text, str) for text in texts)):
        raise _Refused(400, "give prompts and images, two lists of texts")
    return texts


def _results(
    reward: "RewardModel", prompts: list[str], encoded: list[str], max_pixels: int
) -> list[dict[str, Any]]:
    """Return a score or an error for each image."""
    results: list[dict[str, Any]] = [{} for _ in encoded]
    images: dict[int, Image.Image] = {}
    left = max_pixels
    for row, text in enumerate(encoded):
        try:
            images[row] = _decode(text, left)
            left -= images[row].width * images[row].height
        except (ValueError, DamagedError) as error:
            results[row] = {"error": str(error)}
    try:
        scored = score_each(reward, [prompts[row] for row in images], list(images.values()))
    except PpodError as error:
        raise _Refused(500, str(error)) from error
    except Exception as error:
        if is_out_of_memory(error):
            raise _Refused(413, "out of memory: send fewer images") from error
        raise
    for row, result in zip(images, scored, strict=True):
        results[row] = {"error": result} if isinstance(result, str) else {"score": result}
    return results


def _decode(text: str, max_pixels: int) -> Image.Image:
    """Decode the base64 of a PNG to an RGB image. Raises ValueError or DamagedError, with the reason."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"the image is not base64: {error}") from error
    return decode_image(data, formats=("PNG",), max_pixels=max_pixels)
