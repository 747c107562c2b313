"""A reward computed by another process: the client of `ppod-score --serve`.

A reward model with conflicting requirements can thus run in its own environment. Its responses are checked.
"""

import base64
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL.Image import Image

from ppod_data.errors import ConfigError, PpodError, RewardUnavailableError
from ppod_data.format.images import encode_png
from ppod_data.format.tables import check_name
from ppod_data.rewards.numbers import NoScore
from ppod_data.rewards.servers.http_client import Patience, excerpt, read_object, send
from ppod_data.rewards.servers.protocol import VERSION

_TOO_LARGE = 413


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

    def score(self, prompts: Sequence[str], images: Sequence[Image]) -> list[float | NoScore]:
        """Return the server's scores, or its reasons, in as many requests as its limits require.

        Raises:
            PpodError: the server refuses an image as too large.
            RewardUnavailableError: the server does not respond, or now serves another reward.
        """
        scores: list[float | NoScore] = []
        for batch, pngs in _requests(prompts, images, self.limits):
            body = {"prompts": batch, "images": pngs}
            response = _request("POST", f"{self.url}/score", self.patience, json=body)
            scores += self._read(response, len(pngs))
        return scores

    def _read(self, response: dict[str, Any], count: int) -> list[float | NoScore]:
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

    def _score_of(self, result: Any) -> float | NoScore:
        if isinstance(result, dict) and isinstance(result.get("error"), str):
            return NoScore(result["error"], is_declined=True)
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
    """Return the JSON object of the response. Raises PpodError for a request that the server finds too large."""
    response = send(method, url, patience, **options)
    if response.status == _TOO_LARGE:
        raise PpodError(f"{url} refuses a request of this size ({excerpt(response.data)})")
    return read_object(url, response)
