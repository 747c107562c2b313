"""A client of UniRL's reward service: POST /score with one request an image, GET /rewards.

A reward of theirs returns one or more numbers. unirl:URL#REWARD takes the only one, or the one of the reward's own
name; unirl:URL#REWARD/NUMBER takes another.
"""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL.Image import Image

from ppod_data.errors import ConfigError, RewardError, RewardUnavailableError
from ppod_data.format.images import encode_png
from ppod_data.format.tables import check_name
from ppod_data.rewards.numbers import NoScore
from ppod_data.rewards.servers.addresses import Address
from ppod_data.rewards.servers.flow_factory import score_of
from ppod_data.rewards.servers.http_client import Patience, excerpt, read_object, send

_IMAGES = 16
"""Images of a call."""


@dataclass(frozen=True)
class UniRLReward:
    """One number of one reward of a UniRL service."""

    url: str
    reward: str
    number: str | None
    """None for the only number, or the one of the reward's name."""
    name: str
    patience: Patience = field(default=Patience(), repr=False)

    @property
    def revision(self) -> str:
        """Return reward and number; the service reports no version."""
        return f"unirl {self.reward}{f'/{self.number}' if self.number else ''}, version not reported"

    def score(self, prompts: Sequence[str], images: Sequence[Image]) -> list[float | NoScore]:
        """Return the service's scores, or its reasons.

        Raises:
            RewardError: the reward has several numbers and the address names none.
            RewardUnavailableError: the service does not respond.
        """
        scores: list[float | NoScore] = []
        for first in range(0, len(images), _IMAGES):
            last = first + _IMAGES
            scores += self._call(prompts[first:last], images[first:last])
        return scores

    def _call(self, prompts: Sequence[str], images: Sequence[Image]) -> list[float | NoScore]:
        requests = [
            {
                "history": [
                    {"text": prompt, "image_b64": base64.b64encode(encode_png(image)).decode("ascii")}
                ],
                "required_rewards": [self.reward],
            }
            for prompt, image in zip(prompts, images, strict=True)
        ]
        url = f"{self.url}/score"
        response = send("POST", url, self.patience, json={"requests": requests})
        if response.status in (400, 422):
            raise RewardError(f"{url} refuses the request ({excerpt(response.data)}): check the service")
        value = read_object(url, response)
        results, errors = value.get("results"), value.get("errors") or [{}] * len(images)
        if not (isinstance(results, list) and isinstance(errors, list)):
            results, errors = [], []
        if not len(results) == len(errors) == len(images):
            raise RewardUnavailableError(
                f"{url} did not return {len(images)} results: check that it is a UniRL reward service"
            )
        return [self._pick(url, *one) for one in zip(results, errors, strict=True)]

    def _pick(self, url: str, result: Any, error: Any) -> float | NoScore:
        numbers = result.get(self.reward) if isinstance(result, Mapping) else None
        if not isinstance(numbers, Mapping) or not numbers:
            reason = error.get(self.reward) if isinstance(error, Mapping) else None
            return NoScore(str(reason or f"the service returned no {self.reward}"), is_declined=False)
        wanted = self.number or (next(iter(numbers)) if len(numbers) == 1 else self.reward)
        if wanted not in numbers:
            raise RewardError(
                f"{self.reward} of {self.url} returns {', '.join(map(str, numbers))}: give one of them, "
                f"unirl:{self.url}#{self.reward}/NUMBER"
            )
        return score_of(url, numbers[wanted])


def connect_unirl(address: Address, patience: Patience | None = None) -> UniRLReward:
    """Connect to a UniRL service.

    Raises:
        ConfigError: the service has no such reward.
        RewardUnavailableError: there is no such service.
    """
    patience = patience or Patience()
    reward, _, number = address.name.partition("/")
    url = f"{address.url}/rewards"
    known = read_object(url, send("GET", url, patience)).get("rewards")
    if not isinstance(known, list):
        raise RewardUnavailableError(f"{url} did not list rewards: check that it is a UniRL reward service")
    if reward not in known:
        raise ConfigError(
            f"{address.url} has no reward {reward!r}: it has {', '.join(map(str, known)) or 'none'}"
        )
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{reward}-{number}" if number else reward)
    return UniRLReward(address.url, reward, number or None, check_name(name, "a score table"), patience)
