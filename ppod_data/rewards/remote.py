"""A reward that another process computes, here or elsewhere: the client of `ppod-score --serve`.

So a reward model whose requirements clash with ours lives in an environment of its own. Requests are repeated with a
growing pause where a server does not answer, is busy or fails; what it answers is checked.
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
    """How long a server is waited for."""

    attempts: int = 7
    pause: float = 0.5
    """Seconds before the second attempt; doubled before each one after it: half a minute in all."""
    connect: float = 10.0
    """Seconds for a connection."""
    answer: float = 600.0
    """Seconds without a byte of the answer: a large model on a CPU needs minutes for a batch."""


@dataclass(frozen=True)
class Limits:
    """The largest request that a server takes."""

    images: int
    pixels: int
    """Of all images together."""
    bytes: int


@dataclass(frozen=True)
class RemoteReward:
    """The reward model behind a URL, under the name and revision that the server gives it."""

    url: str
    name: str
    revision: str
    limits: Limits
    patience: Patience = field(default=Patience(), repr=False)

    def score(self, prompts: Sequence[str], images: Sequence[Image]) -> list[float]:
        """The server's scores, asked for in as many requests as its limits need.

        Raises:
            PpodError: the server says of an image that it cannot be scored, with its reason.
            RewardUnavailableError: it does not answer, or is another reward than at the beginning.
        """
        scores: list[float] = []
        for some_prompts, pngs in _requests(prompts, images, self.limits):
            body = {"prompts": some_prompts, "images": pngs}
            answer = _ask("POST", f"{self.url}/score", self.patience, json=body)
            scores += self._read(answer, len(pngs))
        return scores

    def _read(self, answer: dict[str, Any], count: int) -> list[float]:
        if (answer.get("name"), answer.get("revision")) != (self.name, self.revision):
            raise RewardUnavailableError(
                f"{self.url} serves {answer.get('name')} {answer.get('revision')} now, and was {self.name} "
                f"{self.revision} before: run the command again to go on with one of them"
            )
        results = answer.get("results")
        if not (isinstance(results, list) and len(results) == count):
            raise RewardUnavailableError(
                f"{self.url} answered without {count} results: is it a reward server?"
            )
        return [self._score_of(result) for result in results]

    def _score_of(self, result: Any) -> float:
        if isinstance(result, dict) and isinstance(result.get("error"), str):
            raise PpodError(result["error"])
        score = result.get("score") if isinstance(result, dict) else None
        if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
            raise RewardUnavailableError(
                f"{self.url} answered {str(result)[:60]!r} for a score: is it a reward server?"
            )
        return float(score)


def connect(url: str, patience: Patience | None = None) -> RemoteReward:
    """The reward that the server at `url` has.

    Raises:
        RewardUnavailableError: nothing answers there.
        ConfigError: what answers is no reward server, or of another version.
    """
    patience = patience or Patience()
    url = url.rstrip("/")
    told = _ask("GET", f"{url}/", patience)
    if told.get("protocol") != VERSION:
        raise ConfigError(
            f"{url} is no reward server of protocol {VERSION}: give the URL that ppod-score --serve prints"
        )
    name, revision = told.get("name"), told.get("revision")
    if not (isinstance(name, str) and isinstance(revision, str)):
        raise ConfigError(f"{url} does not say its name and revision: see docs/rewards.md for the protocol")
    limits = Limits(*(_limit(told, url, key) for key in ("max_images", "max_pixels", "max_bytes")))
    return RemoteReward(url, check_name(name, "a score table"), revision, limits, patience)


def _limit(told: dict[str, Any], url: str, key: str) -> int:
    value = told.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{url} does not say {key}, a number: see docs/rewards.md for the protocol")
    return value


def _requests(
    prompts: Sequence[str], images: Sequence[Image], limits: Limits
) -> Iterator[tuple[list[str], list[str]]]:
    """Prompts and base64 PNGs, as many as one request may hold. An image too large for any request goes alone."""
    some: list[tuple[str, str]] = []
    pixels = size = 0
    for prompt, image in zip(prompts, images, strict=True):
        png = base64.b64encode(encode_png(image)).decode("ascii")
        more = len(png) + 6 * len(prompt) + 16  # JSON's quotes and escapes included
        area = image.width * image.height
        full = (
            len(some) == limits.images or pixels + area > limits.pixels or size + more > limits.bytes - 1024
        )
        if some and full:
            yield [one for one, _ in some], [one for _, one in some]
            some, pixels, size = [], 0, 0
        some.append((prompt, png))
        pixels, size = pixels + area, size + more
    if some:
        yield [one for one, _ in some], [one for _, one in some]


def _ask(method: str, url: str, patience: Patience, **options: Any) -> dict[str, Any]:
    """The JSON object that the server answers. Raises RewardUnavailableError, or PpodError for a refusal."""
    reason = ""
    for attempt in range(patience.attempts):
        if attempt:
            time.sleep(patience.pause * 2 ** (attempt - 1))
        try:
            answer = urllib3.request(
                method,
                url,
                timeout=urllib3.Timeout(connect=patience.connect, read=patience.answer),
                retries=False,
                **options,
            )
        except urllib3.exceptions.LocationValueError as error:
            raise ConfigError(f"{url} is no URL ({error}): give http://HOST:PORT") from error
        except urllib3.exceptions.HTTPError as error:
            reason = f"{type(error).__name__}: {error}"
            continue
        if answer.status not in _BUSY:
            return _decode(url, answer)
        reason = f"status {answer.status}: {_excerpt(answer.data)}"
    raise RewardUnavailableError(
        f"{url} did not answer in {patience.attempts} attempts ({reason[:200]}): start the server again and run the "
        "command again"
    )


def _decode(url: str, answer: Any) -> dict[str, Any]:
    if answer.status == _TOO_LARGE:
        raise PpodError(f"{url} refuses so large a request ({_excerpt(answer.data)})")
    if answer.status != 200:
        raise RewardUnavailableError(
            f"{url} answered with status {answer.status} ({_excerpt(answer.data)}): is it a reward server?"
        )
    try:
        told = answer.json()
    except ValueError as error:  # no JSON, no UTF-8
        raise RewardUnavailableError(
            f"{url} did not answer in JSON ({_excerpt(answer.data)}): is it a reward server?"
        ) from error
    if not isinstance(told, dict):
        raise RewardUnavailableError(f"{url} did not answer with a JSON object: is it a reward server?")
    return told


def _excerpt(data: bytes) -> str:
    return " ".join(data[:200].decode("utf-8", "replace").split())
