"""A reward computed by another process: the client of `ppod-score --serve`.

A reward model with conflicting requirements can thus run in its own environment. Requests are retried with
exponential back-off if the server does not respond, is busy or fails. Its responses are checked.
"""

import base64
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import urllib3
from PIL.Image import Image

from ppod_data.errors import ConfigError, PpodError, RewardUnavailableError
from ppod_data.format.images import encode_png
from ppod_data.format.tables import check_name
from ppod_data.rewards.protocol import VERSION

_BUSY = (429, 500, 502, 503, 504)
_TOO_LARGE = 413


@dataclass(frozen=True)
class Patience:
    """Time-outs and retries of requests to a server."""

    attempts: int = 7
    pause: float = 0.5
    """Seconds before the first retry, doubled before each further one: half a minute in all."""
    connect: float = 10.0
    """Seconds to wait for a connection."""
    answer: float = 600.0
    """Seconds without a byte of the response: a large model on a CPU needs minutes for a batch."""


@dataclass(frozen=True)
class Limits:
    """The largest request that a server accepts."""

    images: int
    pixels: int
    """Pixels of all images together."""
    bytes: int


@dataclass(frozen=True)
class RemoteReward:
    """The reward model behind a URL, with the name and revision that the server reports."""

    url: str
    name: str
    revision: str
    limits: Limits
    patience: Patience = field(default=Patience(), repr=False)

    def score(self, prompts: Sequence[str], images: Sequence[Image]) -> list[float]:
        """Return the server's scores, in as many requests as its limits require.

        Raises:
            PpodError: the server cannot score an image; the message has its reason.
            RewardUnavailableError: the server does not respond, or now serves another reward.
        """
        scores: list[float] = []
        for batch, pngs in _requests(prompts, images, self.limits):
            body = {"prompts": batch, "images": pngs}
            response = _request("POST", f"{self.url}/score", self.patience, json=body)
            scores += self._read(response, len(pngs))
        return scores

    def _read(self, response: dict[str, Any], count: int) -> list[float]:
        if (response.get("name"), response.get("revision")) != (self.name, self.revision):
            raise RewardUnavailableError(
                f"{self.url} now serves {response.get('name')} {response.get('revision')}, not {self.name} "
                f"{self.revision}: run the command again to continue with one of them"
            )
        results = response.get("results")
        if not (isinstance(results, list) and len(results) == count):
            raise RewardUnavailableError(
                f"{self.url} did not return {count} results: check that it is a reward server"
            )
        return [self._score_of(result) for result in results]

    def _score_of(self, result: Any) -> float:
        if isinstance(result, dict) and isinstance(result.get("error"), str):
            raise PpodError(result["error"])
        score = result.get("score") if isinstance(result, dict) else None
        if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
            raise RewardUnavailableError(
                f"{self.url} returned {str(result)[:60]!r} as a score: check that it is a reward server"
            )
        return float(score)


def connect(url: str, patience: Patience | None = None) -> RemoteReward:
    """Connect to the reward server at `url`.

    Raises:
        RewardUnavailableError: no server responds there.
        ConfigError: the server is not a reward server, or has another version.
    """
    patience = patience or Patience()
    url = url.rstrip("/")
    response = _request("GET", f"{url}/", patience)
    if response.get("protocol") != VERSION:
        raise ConfigError(
            f"{url} is not a reward server of protocol {VERSION}: give the URL that ppod-score --serve prints"
        )
    name, revision = response.get("name"), response.get("revision")
    if not (isinstance(name, str) and isinstance(revision, str)):
        raise ConfigError(
            f"{url} does not report its name and revision: see docs/rewards.md for the protocol"
        )
    limits = Limits(*(_limit(response, url, key) for key in ("max_images", "max_pixels", "max_bytes")))
    return RemoteReward(url, check_name(name, "a score table"), revision, limits, patience)


def _limit(response: dict[str, Any], url: str, key: str) -> int:
    value = response.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{url} does not report {key}, a number: see docs/rewards.md for the protocol")
    return value


def _requests(
    prompts: Sequence[str], images: Sequence[Image], limits: Limits
) -> Iterator[tuple[list[str], list[str]]]:
    """Yield prompts and base64 PNGs, as many as one request may hold. An oversized image gets its own request."""
    batch: list[tuple[str, str]] = []
    pixels = size = 0
    for prompt, image in zip(prompts, images, strict=True):
        png = base64.b64encode(encode_png(image)).decode("ascii")
        more = len(png) + 6 * len(prompt) + 16  # JSON's quotes and escapes included
        area = image.width * image.height
        full = (
            len(batch) == limits.images or pixels + area > limits.pixels or size + more > limits.bytes - 1024
        )
        if batch and full:
            yield [text for text, _ in batch], [data for _, data in batch]
            batch, pixels, size = [], 0, 0
        batch.append((prompt, png))
        pixels, size = pixels + area, size + more
    if batch:
        yield [text for text, _ in batch], [data for _, data in batch]


def _request(method: str, url: str, patience: Patience, **options: Any) -> dict[str, Any]:
    """Return the JSON object of the response. Raises RewardUnavailableError, or PpodError for a refusal."""
    reason = ""
    for attempt in range(patience.attempts):
        if attempt:
            time.sleep(patience.pause * 2 ** (attempt - 1))
        try:
            response = urllib3.request(
                method,
                url,
                timeout=urllib3.Timeout(connect=patience.connect, read=patience.answer),
                retries=False,
                **options,
            )
        except urllib3.exceptions.LocationValueError as error:
            raise ConfigError(f"{url} is not a URL ({error}): give http://HOST:PORT") from error
        except urllib3.exceptions.HTTPError as error:
            reason = f"{type(error).__name__}: {error}"
            continue
        if response.status not in _BUSY:
            return _decode(url, response)
        reason = f"status {response.status}: {_excerpt(response.data)}"
    raise RewardUnavailableError(
        f"{url} did not respond in {patience.attempts} attempts ({reason[:200]}): start the server again and run the "
        "command again"
    )


def _decode(url: str, response: Any) -> dict[str, Any]:
    if response.status == _TOO_LARGE:
        raise PpodError(f"{url} refuses a request of this size ({_excerpt(response.data)})")
    if response.status != 200:
        raise RewardUnavailableError(
            f"{url} returned status {response.status} ({_excerpt(response.data)}): check that it is a reward server"
        )
    try:
        value = response.json()
    except ValueError as error:  # not JSON, or not UTF-8
        raise RewardUnavailableError(
            f"{url} did not return JSON ({_excerpt(response.data)}): check that it is a reward server"
        ) from error
    if not isinstance(value, dict):
        raise RewardUnavailableError(f"{url} did not return a JSON object: check that it is a reward server")
    return value


def _excerpt(data: bytes) -> str:
    return " ".join(data[:200].decode("utf-8", "replace").split())
