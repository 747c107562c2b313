"""Numbers from the answers of a language model: from its log-probabilities, else from its text.

expected_value(reply, {"yes": 1.0, "no": 0.0})  # P(yes) / (P(yes) + P(no))
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_BEGIN, _THOUGHT = "<think>", "</think>"
_NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.]*\d)")


@dataclass(frozen=True)
class Token:
    """One token of an answer, with the log-probabilities of the tokens that could stand there."""

    text: str
    alternatives: Mapping[str, float]


@dataclass(frozen=True)
class Reply:
    """An answer of a language model."""

    text: str
    tokens: tuple[Token, ...]
    """Empty if the server gives no log-probabilities."""
    model: str
    """The model that the server says has answered."""


def expected_value(reply: Reply, values: Mapping[str, float]) -> float | None:
    """Return the mean of `values` under the probabilities of their words at the place of the answer.

    Args:
        reply: an answer with log-probabilities.
        values: one-token words, in lower case, and their values.

    Returns:
        Σ value · P(word) / Σ P(word); None if the answer is not one of the words, or has no log-probabilities.
    """
    tokens = _tokens_after_thought(reply.tokens)
    while tokens and not _word(tokens[0].text):
        tokens.pop(0)
    if not tokens or _word(tokens[0].text) not in values:
        return None
    if len(tokens) > 1 and tokens[0].text[-1:].isdigit() and tokens[1].text[:1].isdigit():
        return None  # the first digit of a longer number
    logs = {
        text: log for text, log in tokens[0].alternatives.items() if log <= 0
    }  # others are no log-probabilities
    words = [(_word(text), math.exp(log)) for text, log in logs.items()]
    known = [(values[word], probability) for word, probability in words if word in values]
    total = math.fsum(probability for _, probability in known)
    return math.fsum(value * probability for value, probability in known) / total if total > 0 else None


def stated_word(text: str, values: Mapping[str, float]) -> float | None:
    """Return the value of the first word of an answer, or of its only known word; None for another answer."""
    words = re.findall(r"\w+", _after_thought(text).casefold())
    if words and words[0] in values:
        return values[words[0]]
    known = {values[word] for word in words if word in values}
    return known.pop() if len(known) == 1 else None


def stated_number(text: str, low: int, high: int) -> float | None:
    """Return the only number of an answer, from `low` to `high`; "4/5" and "4 out of 5" are 4. None for another."""
    bare = re.sub(rf"(/|\bout of\b)\s*{high}\b", " ", _after_thought(text))
    numbers = {float(number) for number in _NUMBER.findall(bare)}
    if len(numbers) != 1:
        return None
    number = numbers.pop()
    return number if low <= number <= high else None


def _after_thought(text: str) -> str:
    """Return an answer without its thoughts; nothing of an answer that ends within them."""
    if _THOUGHT not in text and _BEGIN in text:
        return ""
    return text.rpartition(_THOUGHT)[2]


def _tokens_after_thought(tokens: Sequence[Token]) -> list[Token]:
    text = ""
    for index, token in enumerate(tokens):
        text += token.text
        if _THOUGHT in text[-len(token.text) - len(_THOUGHT) :]:
            return list(tokens[index + 1 :])
    return list(tokens)


def _word(token: str) -> str:
    """Return the word of a token: lower case, without spaces and punctuation around it."""
    return re.sub(r"^[\W_Ġ]+|[\W_]+$", "", token).casefold()
