"""A client of an OpenAI-compatible API (vLLM, SGLang, llama.cpp, OpenAI): POST URL/chat/completions.

The key is read from the environment variable OPENAI_API_KEY. It is sent over https, and over http to this machine
only. It is never stored.
"""

import base64
import hashlib
import io
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import urllib3
from PIL import Image

from ppod_data.errors import RewardUnavailableError
from ppod_data.rewards.servers.addresses import is_on_this_machine
from ppod_data.rewards.servers.http_client import Patience, excerpt, read_object, send
from ppod_data.rewards.usage import Usage
from ppod_data.rewards.vlm.answers import Reply, Token
from ppod_data.rewards.vlm.settings import VlmSettings
from ppod_data.support.canonical_json import canonical_json

KEY = "OPENAI_API_KEY"
_ALTERNATIVES = 20
"""The most that these servers give."""
_NEWER_LIMIT = "max_completion_tokens"
"""A field that replaces max_tokens: some models accept only one of them."""
_REFUSED = (400, 413, 415, 422)
Content = Sequence[Mapping[str, Any]]
"""Parts of a message: texts and images."""


class RefusedError(Exception):
    """A request that the server refuses because of its content."""


class _Counter:
    """The usage of all threads."""

    def __init__(self) -> None:
        self.usage = Usage()
        self.asked = 0
        self.lock = threading.Lock()


@dataclass(frozen=True)
class Chat:
    """A model behind the API."""

    settings: VlmSettings
    has_log_probs: bool
    """Ask for log-probabilities."""
    reported: str = ""
    """The model that answered first; empty before."""
    pool: urllib3.PoolManager = field(default_factory=urllib3.PoolManager, repr=False)
    counter: _Counter = field(default_factory=_Counter, repr=False)

    def ask(self, content: Content) -> Reply:
        """Return the model's answer to one message.

        Raises:
            RefusedError: the server does not take this message.
            RewardUnavailableError: no answer, no access, another model than before, or the limit is reached.
        """
        settings = self.settings
        with self.counter.lock:
            if settings.max_requests and self.counter.asked >= settings.max_requests:
                raise RewardUnavailableError(
                    f"{settings.model}: the limit of {settings.max_requests} requests is reached: raise max_requests "
                    "and run the command again to continue"
                )
            self.counter.asked += 1
        url = f"{settings.url}/chat/completions"
        patience = Patience(answer=settings.timeout)
        response = send(
            "POST", url, patience, pool=self.pool, headers=_headers(url), json=self._body(content)
        )
        self._refuse(url, response)
        value = read_object(url, response)
        reply = _read(url, value)
        self._count(value.get("usage"))
        if self.reported not in ("", reply.model):
            raise RewardUnavailableError(
                f"{url} now answers by {reply.model}, not {self.reported}: run the command again to continue with one "
                "of them"
            )
        return reply

    def _body(self, content: Content) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.settings.model,
            "messages": [{"role": "user", "content": list(content)}],
            "temperature": 0,
        }
        if _NEWER_LIMIT not in self.settings.request:
            body["max_tokens"] = self.settings.max_tokens
        if self.has_log_probs:
            body |= {"logprobs": True, "top_logprobs": _ALTERNATIVES}
        return body | dict(self.settings.request)

    def _refuse(self, url: str, response: Any) -> None:
        reason = f"status {response.status}: {excerpt(response.data)}"
        if response.status in _REFUSED:
            raise RefusedError(reason)
        if response.status in (401, 403):
            key = f"set {KEY}" if not os.environ.get(KEY) else f"check {KEY}"
            if not _may_have_key(url):
                key = f"{KEY} is not sent over http to another machine: use https, or a tunnel to 127.0.0.1"
            raise RewardUnavailableError(f"{url} denies access ({reason}): {key}")
        if response.status == 404:
            raise RewardUnavailableError(
                f"{url} does not know {self.settings.model} ({reason}): give the URL up to /v1, and a model of its list"
            )

    def _count(self, counts: object) -> None:
        known = counts if isinstance(counts, dict) else {}
        prompt, answer = (
            number if isinstance(number := known.get(key), int) else 0
            for key in ("prompt_tokens", "completion_tokens")
        )
        with self.counter.lock:
            usage = self.counter.usage
            self.counter.usage = Usage(
                requests=usage.requests + 1,
                prompt_tokens=usage.prompt_tokens + prompt,
                answer_tokens=usage.answer_tokens + answer,
            )


def connect(settings: VlmSettings, content: Content) -> Chat:
    """Return a client, after one question that tells whether the server gives log-probabilities, and its version.

    Raises:
        RewardUnavailableError: there is no such server or model, or it does not take such a message.
    """
    pool = urllib3.PoolManager(maxsize=settings.concurrency, block=True)
    chat = Chat(settings, has_log_probs=True, pool=pool)
    try:
        try:
            reply = chat.ask(content)
        except RefusedError as error:
            if "logprob" not in str(error).lower():
                raise
            chat = replace(chat, has_log_probs=False)
            reply = chat.ask(content)
    except RefusedError as error:
        raise RewardUnavailableError(
            f"{settings.url} refuses a question about an image to {settings.model} ({error}): take a model that sees "
            "images, or change the fields of the request in a file, openai:FILE.toml"
        ) from error
    return replace(chat, has_log_probs=bool(reply.tokens), reported=reply.model)


def revision_of(chat: Chat, question: str, answers: str) -> str:
    """Return 16 hex digits of the model, the question, and all else that changes an answer or how it is read."""
    settings = chat.settings
    identity = {
        "model": settings.model,
        "reported": chat.reported,
        "question": question,
        "answers": answers,
        "log_probs": chat.has_log_probs,
        "max_side": settings.max_side,
        "max_tokens": settings.max_tokens,
        "request": dict(settings.request),
    }
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:16]


def text_part(text: str) -> dict[str, Any]:
    """Return a text as a part of a message."""
    return {"type": "text", "text": text}


def image_part(image: Image.Image, max_side: int = 0) -> dict[str, Any]:
    """Return an image as a part of a message: a PNG, scaled down to `max_side` pixels unless that is 0."""
    image = image.convert("RGB")
    if 0 < max_side < max(image.size):
        image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}


def _may_have_key(url: str) -> bool:
    return url.startswith("https://") or is_on_this_machine(url)


def _headers(url: str) -> dict[str, str]:
    key = os.environ.get(KEY)
    return {"Authorization": f"Bearer {key}"} if key and _may_have_key(url) else {}


def _read(url: str, value: Mapping[str, Any]) -> Reply:
    try:
        choice = value["choices"][0]
        text = choice["message"].get("content") or ""
        listed = (choice.get("logprobs") or {}).get("content") or []
        tokens = tuple(
            Token(
                str(token["token"]),
                {
                    str(other["token"]): float(other["logprob"])
                    for other in [token, *(token.get("top_logprobs") or [])]
                },
            )
            for token in listed
        )
        if not isinstance(text, str):
            raise TypeError("content")
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise RewardUnavailableError(
            f"{url} did not return an answer of a chat ({str(value)[:100]}): check that it is an OpenAI-compatible API"
        ) from error
    return Reply(text, tokens, str(value.get("model") or "unknown"))
