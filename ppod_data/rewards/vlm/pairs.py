"""A vision language model that compares two images, in both orders.

judge = connect_pairs("openai:http://127.0.0.1:8000/v1#Qwen2.5-VL-7B-Instruct")
judge.compare("a cat", first, second)  # (0.8, 0.3): the first image is preferred in both orders
"""

from dataclasses import dataclass

from PIL import Image

from ppod_data.rewards.numbers import NoScore
from ppod_data.rewards.usage import Usage
from ppod_data.rewards.vlm.answers import Reply, expected_value, stated_number
from ppod_data.rewards.vlm.chat import (
    Chat,
    Content,
    RefusedError,
    connect,
    image_part,
    revision_of,
    text_part,
)
from ppod_data.rewards.vlm.settings import VlmSettings, read_settings

_VALUES = {"1": 1.0, "2": 0.0}
_ANSWERS = "1 or 2"


@dataclass(frozen=True)
class PairJudge:
    """A question about two images to a vision language model."""

    settings: VlmSettings
    chat: Chat

    @property
    def revision(self) -> str:
        """Return 16 hex digits of all that changes an answer."""
        return revision_of(self.chat, self.settings.ask_pair("{prompt}"), _ANSWERS)

    @property
    def usage(self) -> Usage:
        """Return requests and tokens so far."""
        return self.chat.counter.usage

    def compare(self, prompt: str, a: Image.Image, b: Image.Image) -> tuple[float, float] | NoScore:
        """Return the probability that the first of two images is preferred: for (a, b), and for (b, a).

        Raises:
            RewardUnavailableError: the server does not respond, or has another model now.
        """
        shares = []
        for images in ((a, b), (b, a)):
            try:
                reply = self.chat.ask(content_of(self.settings, prompt, *images))
            except RefusedError as error:
                return NoScore(f"the server refuses the question: {error}", is_declined=False)
            share = read_choice(reply)
            if share is None:
                return NoScore(f"the answer {reply.text[:60]!r} is not {_ANSWERS}", is_declined=False)
            shares.append(share)
        return shares[0], shares[1]


def connect_pairs(judge: str) -> PairJudge:
    """Connect to the judge openai:URL#MODEL or openai:FILE.toml. One question about two grey images is asked at once.

    Raises:
        ConfigError: an invalid file or address.
        RewardUnavailableError: there is no such server or model.
    """
    settings = read_settings(judge)
    grey = Image.new("RGB", (64, 64), (128, 128, 128))
    return PairJudge(settings, connect(settings, content_of(settings, "a grey square", grey, grey)))


def content_of(settings: VlmSettings, prompt: str, first: Image.Image, second: Image.Image) -> Content:
    """Return the message that asks about two images."""
    return [
        text_part("Image 1:"),
        image_part(first, settings.max_side),
        text_part("Image 2:"),
        image_part(second, settings.max_side),
        text_part(settings.ask_pair(prompt)),
    ]


def read_choice(reply: Reply) -> float | None:
    """Return the probability of the answer 1; None for an unreadable answer."""
    share = expected_value(reply, _VALUES)
    if share is not None:
        return share
    number = stated_number(reply.text, 1, 2)
    return None if number is None else _VALUES.get(f"{number:g}")
