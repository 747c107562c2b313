"""Rewards on servers of other projects, as `--reward` names them: PROTOCOL:URL#NAME.

parse_address("openai:http://127.0.0.1:8000/v1#Qwen2.5-VL-7B-Instruct").name  # 'Qwen2.5-VL-7B-Instruct'
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from ppod_data.errors import ConfigError

PROTOCOLS: Mapping[str, str] = {"openai": "MODEL", "flow-factory": "NAME", "unirl": "REWARD"}
"""Protocol of a server -> the name after its URL."""
PICKLED = ("flow-grpo", "verl-omni")
"""Projects whose reward servers exchange pickles."""
_EXAMPLE_PORT = {"openai": "8000/v1", "flow-factory": "8000", "unirl": "8080"}


@dataclass(frozen=True)
class Address:
    """A reward on a server."""

    protocol: str
    url: str
    """http or https, without a slash at the end."""
    name: str
    """The text after #."""


def has_protocol(reward: str) -> bool:
    """Return true for PROTOCOL:…, also of a protocol that is refused."""
    return reward.partition(":")[0] in (*PROTOCOLS, *PICKLED)


def is_on_server(reward: str) -> bool:
    """Return true for a reward that a server computes: a URL, or PROTOCOL:…."""
    return has_protocol(reward) or reward.startswith(("http://", "https://"))


def is_file(reward: str) -> bool:
    """Return true for openai:FILE.toml."""
    return reward.startswith("openai:") and "://" not in reward and reward.endswith(".toml")


def parse_address(reward: str) -> Address:
    """Read PROTOCOL:URL#NAME. No server is contacted.

    Raises:
        ConfigError: pickles, no such URL, no name, or a key or password in the URL, which would be stored.
    """
    protocol, _, rest = reward.partition(":")
    if protocol in PICKLED:
        raise ConfigError(
            f"{reward}: {protocol}'s servers exchange pickles, with which each side can run code on the other: serve "
            "the model by JSON instead (ppod-score --serve, flow-factory:URL#NAME or unirl:URL#REWARD)"
        )
    url, _, name = rest.partition("#")
    example = f"{protocol}:http://127.0.0.1:{_EXAMPLE_PORT[protocol]}#{PROTOCOLS[protocol]}"
    try:
        parts = urlsplit(url)
        is_complete = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_complete = False
    if not is_complete:
        raise ConfigError(f"{reward} has no URL of a server: give {example}")
    if not name.strip():
        raise ConfigError(f"{reward} has no {PROTOCOLS[protocol]} after the URL: give {example}")
    if "@" in parts.netloc or parts.query:
        raise ConfigError(
            f"{protocol}:{parts.scheme}://{parts.hostname}: a URL with a password or a query would be stored with the "
            "scores: leave it out"
        )
    return Address(protocol, url.rstrip("/"), unquote(name.strip()))


def is_on_this_machine(reward: str) -> bool:
    """Return true for a reward whose URL names this machine's loopback."""
    try:
        host = urlsplit(reward[reward.index("http") :]).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
