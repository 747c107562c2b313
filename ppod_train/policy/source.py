"""Location of a policy to evaluate."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class PolicySource:
    """Arguments of `load_model` for a policy."""

    model: str
    revision: str | None = None
    variant: str | None = None
    adapter: str | None = None
