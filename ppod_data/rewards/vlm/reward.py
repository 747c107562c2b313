"""The reward openai:URL#MODEL: a vision language model answers a question about each image.

The score is the probability of yes, or the expected number of a scale, from the log-probabilities of the answer.
Without log-probabilities it is 1 or 0, or the number.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from PIL import Image

from ppod_data.rewards.numbers import NoScore
from ppod_data.rewards.usage import Usage
from ppod_data.rewards.vlm.answers import Reply, expected_value, stated_number, stated_word
from ppod_data.rewards.vlm.chat import Chat, RefusedError, connect, image_part, revision_of, text_part
from ppod_data.rewards.vlm.settings import VlmSettings, read_settings, scale_of

_YES_NO = {"yes": 1.0, "no": 0.0}
_LARGEST_DIGIT = 9
"""A larger number may be several tokens, so its probability is not that of one token."""


@dataclass(frozen=True)
class VlmReward:
    """A question to a vision language model."""

    settings: VlmSettings
    chat: Chat

    @property
    def name(self) -> str:
        """Return the settings' name."""
        return self.settings.name

    @property
    def revision(self) -> str:
        """Return the model that the server reports, and 16 hex digits of all that changes an answer."""
        question = self.settings.ask("{prompt}")
        return f"{self.chat.reported[:60]} {revision_of(self.chat, question, self.settings.answers)}"

    @property
    def usage(self) -> Usage:
        """Return requests and tokens so far."""
        return self.chat.counter.usage

    def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> list[float | NoScore]:
        """Return a score for each image, or the reason; several requests are under way at a time.

        Raises:
            RewardUnavailableError: the server does not respond, or has another model now.
        """
        with ThreadPoolExecutor(self.settings.concurrency) as threads:
            try:
                return list(threads.map(self._score, prompts, images))
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                raise

    def _score(self, prompt: str, image: Image.Image) -> float | NoScore:
        content = [image_part(image, self.settings.max_side), text_part(self.settings.ask(prompt))]
        try:
            reply = self.chat.ask(content)
        except RefusedError as error:
            return NoScore(f"the server refuses the question: {error}", is_declined=False)
        value = read_answer(reply, self.settings.answers)
        return unreadable(reply, self.settings.answers) if value is None else value


def build(reward: str) -> VlmReward:
    """Connect to the judge `reward`. One question about a grey image is asked at once.

    Raises:
        ConfigError: an invalid file or address.
        RewardUnavailableError: there is no such server or model.
    """
    settings = read_settings(reward)
    probe = image_part(Image.new("RGB", (64, 64), (128, 128, 128)))
    return VlmReward(settings, connect(settings, [probe, text_part(settings.ask("a grey square"))]))


def read_answer(reply: Reply, answers: str) -> float | None:
    """Return the score of an answer; None for an unreadable one. `answers` is yes-no or a scale."""
    scale = scale_of(answers)
    if scale is None:
        value = expected_value(reply, _YES_NO)
        return stated_word(reply.text, _YES_NO) if value is None else value
    low, high = scale
    if high <= _LARGEST_DIGIT:
        value = expected_value(reply, {str(number): float(number) for number in range(low, high + 1)})
        if value is not None:
            return value
    return stated_number(reply.text, low, high)


def unreadable(reply: Reply, answers: str) -> NoScore:
    """Return the reason that an answer has no value."""
    wanted = "yes or no" if scale_of(answers) is None else f"a number of {answers}"
    return NoScore(f"the answer {reply.text[:60]!r} is not {wanted}", is_declined=False)
