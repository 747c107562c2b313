"""A client of Flow-Factory's reward servers: POST /compute with prompts and PNGs, GET /health.

Their protocol has no name, version or limits. The user's NAME stands for the identity of the model.
"""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL.Image import Image

from ppod_data.errors import RewardUnavailableError
from ppod_data.format.images import encode_png
from ppod_data.format.tables import check_name
from ppod_data.rewards.numbers import NoScore
from ppod_data.rewards.servers.addresses import Address
from ppod_data.rewards.servers.http_client import BUSY, Patience, excerpt, read_object, send

_IMAGES = 16
"""Images of a request."""
_FAILED = 500
"""Their status of a request whose scoring raised: not a busy server."""


@dataclass(frozen=True)
class FlowFactoryReward:
    """The reward model of a Flow-Factory server."""

    url: str
    name: str
    patience: Patience = field(default=Patience(), repr=False)

    @property
    def revision(self) -> str:
        """Return the protocol; the server reports no version."""
        return "flow-factory, version not reported"

    def score(self, prompts: Sequence[str], images: Sequence[Image]) -> list[float | NoScore]:
        """Return the server's scores, or its reasons. Raises RewardUnavailableError if it does not respond."""
        scores: list[float | NoScore] = []
        for first in range(0, len(images), _IMAGES):
            last = first + _IMAGES
            scores += self._compute(prompts[first:last], images[first:last])
        return scores

    def _compute(self, prompts: Sequence[str], images: Sequence[Image]) -> list[float | NoScore]:
        pngs = [base64.b64encode(encode_png(image)).decode("ascii") for image in images]
        url, body = f"{self.url}/compute", {"prompt": list(prompts), "image": pngs}
        busy = set(BUSY) - {_FAILED}
        response = send("POST", url, self.patience, busy=busy, json=body)
        if response.status == _FAILED:
            if len(images) > 1:
                return [self._compute([prompts[i]], [images[i]])[0] for i in range(len(images))]
            return [NoScore(f"the server failed: {excerpt(response.data)}", is_declined=False)]
        rewards = read_object(url, response).get("rewards")
        if not (isinstance(rewards, list) and len(rewards) == len(images)):
            raise RewardUnavailableError(
                f"{url} did not return {len(images)} rewards: check that it is a Flow-Factory reward server"
            )
        return [score_of(url, reward) for reward in rewards]


def score_of(url: str, value: Any) -> float | NoScore:
    """Return a score of JSON. NaN has a reason. Raises RewardUnavailableError for a value that is not a number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RewardUnavailableError(f"{url} returned {str(value)[:60]!r} as a score: check the server")
    if not math.isfinite(value):
        return NoScore(f"the score is {value}", is_declined=False)
    return float(value)


def connect_flow_factory(address: Address, patience: Patience | None = None) -> FlowFactoryReward:
    """Connect to a Flow-Factory server. Raises RewardUnavailableError if its /health is not well."""
    patience = patience or Patience()
    name = check_name(address.name, "a score table")
    read_object(f"{address.url}/health", send("GET", f"{address.url}/health", patience))
    return FlowFactoryReward(address.url, name, patience)
