"""Requests to servers of rewards: time-outs, retries with exponential back-off, checked JSON.

response = send("POST", "http://127.0.0.1:8000/score", Patience(), json={"prompts": ["a cat"]})
read_object(url, response)
"""

import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import urllib3

from ppod_data.errors import ConfigError, RewardUnavailableError

BUSY = (429, 500, 502, 503, 504)
"""Statuses that may pass: the request is retried."""
_LONGEST_WAIT = 60.0
_UNREAD = "check that it is a reward server"


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


def send(
    method: str,
    url: str,
    patience: Patience,
    *,
    pool: urllib3.PoolManager | None = None,
    busy: Collection[int] = BUSY,
    **options: Any,
) -> Any:
    """Return the first response whose status is not in `busy`. Redirects are not followed.

    Args:
        method: GET or POST.
        url: of the request.
        patience: time-outs and the number of attempts.
        pool: connections to use; a shared pool if None.
        busy: statuses that are retried, after as many seconds as the header Retry-After names, at most a minute.
        options: `json`, `headers` and others of urllib3.

    Raises:
        ConfigError: the URL cannot be parsed.
        RewardUnavailableError: no attempt has a response.
    """
    reason, request = "", (pool or urllib3).request
    wait = 0.0
    for attempt in range(patience.attempts):
        if attempt:
            time.sleep(max(wait, patience.pause * 2 ** (attempt - 1)))
        try:
            timeout = urllib3.Timeout(connect=patience.connect, read=patience.answer)
            response = request(method, url, timeout=timeout, retries=False, **options)
        except urllib3.exceptions.LocationValueError as error:
            raise ConfigError(f"{url} is not a URL ({error}): give http://HOST:PORT") from error
        except urllib3.exceptions.HTTPError as error:
            reason, wait = f"{type(error).__name__}: {error}", 0.0
            continue
        if response.status not in busy:
            return response
        reason, wait = f"status {response.status}: {excerpt(response.data)}", _retry_after(response)
    raise RewardUnavailableError(
        f"{url} did not respond in {patience.attempts} attempts ({reason[:200]}): start the server again and run the "
        "command again"
    )


def read_object(url: str, response: Any) -> dict[str, Any]:
    """Return the JSON object of a response. Raises RewardUnavailableError for another status or body."""
    if response.status != 200:
        raise RewardUnavailableError(
            f"{url} returned status {response.status} ({excerpt(response.data)}): {_UNREAD}"
        )
    try:
        value = response.json()
    except ValueError as error:  # not JSON, or not UTF-8
        raise RewardUnavailableError(
            f"{url} did not return JSON ({excerpt(response.data)}): {_UNREAD}"
        ) from error
    if not isinstance(value, dict):
        raise RewardUnavailableError(f"{url} did not return a JSON object: {_UNREAD}")
    return value


def excerpt(data: bytes) -> str:
    """Return the beginning of a response's body on one line."""
    return " ".join(data[:200].decode("utf-8", "replace").split())


def _retry_after(response: Any) -> float:
    """Return the seconds that the header Retry-After asks for, at most a minute; 0 without a number of seconds."""
    value = str(response.headers.get("retry-after", ""))
    return min(float(value), _LONGEST_WAIT) if value.isdecimal() else 0.0
