"""Settings of ranked pairs, declared once for Python, the command line and configuration files."""

from dataclasses import dataclass
from typing import Literal

from ppod_data.support.options import option


@dataclass(frozen=True, kw_only=True)
class PairSettings:
    """Which images of a prompt become pairs, and with which labels.

    >>> PairSettings(strategy="all").min_margin
    0.0
    """

    strategy: Literal["random", "best-worst", "all"] = option(
        "random",
        "random: distinct pairs at random. best-worst: the i-th best with the i-th worst image. all: every pair.",
    )
    num_pairs_per_prompt: int | None = option(
        None,
        "M: pairs of each prompt, if it has as many.",
        metavar="M",
        shown_default="random 256, best-worst 1, all every pair",
        min=1,
    )
    min_margin: float = option(0.0, "Scores of a pair differ by more than this.", metavar="X", min=0.0)
    label_temperature: float | None = option(
        None,
        "Labels are σ(margin / X), the chance that chosen is preferred, instead of 1.",
        metavar="X",
        shown_default="hard labels",
    )
    seed: int = option(0, "Seed of the strategy random.", metavar="SEED", min=0)
