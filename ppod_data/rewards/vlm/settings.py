"""Settings of a judge: where its model is, what it is asked, and how its answers are read.

`openai:URL#MODEL` has the defaults; `openai:FILE.toml` sets any field by its name:

    url = "http://127.0.0.1:8000/v1"
    model = "Qwen/Qwen2.5-VL-7B-Instruct"
    question = "How natural do the hands look? Answer with one number from 1 to 5."
    answers = "1-5"
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ppod_data.errors import ConfigError
from ppod_data.format.tables import check_name
from ppod_data.rewards.servers.addresses import is_file, parse_address
from ppod_data.support.canonical_json import canonical_json
from ppod_data.support.options import check_options, option

YES_NO = "yes-no"
_QUESTION = 'Does this image show "{prompt}"? Answer Yes or No.'
_RATING = (
    'How well does this image show "{prompt}"? Answer with one number from LOW (not at all) to HIGH (in every '
    "detail)."
)
_COMPARISON = 'Both images were made for the text "{prompt}". Which one is better? Answer 1 or 2.'
_PROMPT = "{prompt}"
_MOST_STEPS = 100


@dataclass(frozen=True, kw_only=True)
class VlmSettings:
    """A judge. Only the fields that change an answer enter its revision."""

    url: str
    """Of the API, such as http://127.0.0.1:8000/v1."""
    model: str
    """As the server names it."""
    name: str
    """Of the reward, and so of its score table."""
    question: str = ""
    """{prompt} stands for the prompt of the image; a question that suits `answers` if empty."""
    answers: str = YES_NO
    """yes-no, whose score is the probability of yes; or a scale such as 1-5, whose score is the expected number."""
    pair_question: str = ""
    """About two images, answered by 1 or 2; which one is better if empty."""
    max_side: int = option(
        0, "Longest side of an image that is sent; larger ones are scaled down; 0 is any.", min=0
    )
    max_tokens: int = option(16, "Most tokens of an answer.", min=1)
    request: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of each request."""
    concurrency: int = option(8, "Requests at a time.", min=1, max=256)
    timeout: float = option(120.0, "Seconds to wait for an answer.", above=0)
    max_requests: int = option(0, "Most requests of a process; 0 is any number.", min=0)

    def __post_init__(self) -> None:
        check_options(self)
        check_name(self.name, "a score table")
        scale_of(self.answers)

    def ask(self, prompt: str) -> str:
        """Return the question about an image of `prompt`."""
        scale = scale_of(self.answers)
        usual = (
            _QUESTION
            if scale is None
            else _RATING.replace("LOW", str(scale[0])).replace("HIGH", str(scale[1]))
        )
        return (self.question or usual).replace(_PROMPT, prompt)

    def ask_pair(self, prompt: str) -> str:
        """Return the question about two images of `prompt`."""
        return (self.pair_question or _COMPARISON).replace(_PROMPT, prompt)


def scale_of(answers: str) -> tuple[int, int] | None:
    """Return the ends of a scale such as 1-5; None for yes-no. Raises ConfigError for another text."""
    if answers == YES_NO:
        return None
    match = re.fullmatch(r"(\d{1,3})-(\d{1,3})", answers)
    low, high = (int(match[1]), int(match[2])) if match else (0, 0)
    if not low < high <= _MOST_STEPS:
        raise ConfigError(
            f"answers is {answers!r}: give {YES_NO}, or a scale such as 1-5 (at most 0-{_MOST_STEPS})"
        )
    return low, high


def read_settings(reward: str) -> VlmSettings:
    """Return the settings of openai:URL#MODEL or openai:FILE.toml. Raises ConfigError, naming what is wrong."""
    if is_file(reward):
        return _from_file(Path(reward.partition(":")[2]).expanduser())
    address = parse_address(reward)
    return VlmSettings(url=address.url, model=address.name, name=_name_of(address.name))


def _from_file(path: Path) -> VlmSettings:
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}: give the file of a judge") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    values = {"name": _name_of(path.stem)} | values
    types: dict[str, Any] = {
        "url": str,
        "model": str,
        "name": str,
        "question": str,
        "answers": str,
        "pair_question": str,
        "request": dict,
    }
    known = {one.name for one in fields(VlmSettings)}
    for key, value in values.items():
        if key not in known:
            raise ConfigError(f"{path}: {key} is unknown: the keys are {', '.join(sorted(known))}")
        if not isinstance(value, types.get(key, object)):
            raise ConfigError(f"{path}: {key} is {value!r}: give a {types[key].__name__}")
    if missing := [key for key in ("url", "model") if not values.get(key)]:
        raise ConfigError(f'{path} has no {" and no ".join(missing)}: add a line {missing[0]} = "…"')
    try:
        canonical_json(values.get("request", {}))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}: request holds a value that JSON does not have ({error})") from error
    address = parse_address(f"openai:{values['url']}#{values['model']}")
    try:
        return VlmSettings(**values | {"url": address.url})
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _name_of(text: str) -> str:
    """Return a name for the score table: the last part of a model's id or file, in the letters that names have."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text.rstrip("/").rpartition("/")[2]).lstrip("._-")[:80] or "judge"
