"""The name of a policy to evaluate."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class PolicySource:
    """Where a policy is loaded from: the arguments of `load_model`."""

    model: str
    revision: str | None = None
    variant: str | None = None
    adapter: str | None = None
