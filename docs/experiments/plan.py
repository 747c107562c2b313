"""Every experiment as a list of runs: what is trained, on which prompt, with which seed.

The methods' settings are those that the same small search found for each (`tune.py`), on other prompts than these.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from lab import PAPER_PROMPTS, QUERIES, UPDATES, Method

SEEDS = (0, 1, 2)
UNSEEN = {
    "A green colored rabbit": ("a green colored pig", "a green colored dog"),
    "Four wolves in the park": ("four cats in the park", "four wolves on the beach"),
    "A cat and a dog": ("a cat and a pig", "a bird and a dog"),
    "A dog on the moon": ("a cat on the moon", "a rabbit on the moon"),
}
"""Prompts of the same kind that share words with the trained one, for how far training carries over."""

OFFLINE = Method(objective="ppod", settings={"ema_decay": 0.9}, pairs={"label_temperature": 3.0})
ONLINE = replace(OFFLINE, stages=4)
HARD = Method(objective="ppod")
"""Eq. 10 to the letter: labels of 1, and the trained weights themselves."""
METHODS: dict[str, Method] = {
    "sft": Method(objective="sft-best"),
    "dpok": Method(objective="dpok", stages=16),
    "ddpo": Method(objective="ddpo", stages=4),
    "d3po": Method(
        objective="d3po",
        stages=8,
        settings={"log_ratio_clip": 0.1, "ema_decay": 0.9},
        pairs={"label_temperature": 3.0},
    ),
    "prdp": Method(objective="prdp", stages=4, settings={"reward_temperature": 3.0, "ema_decay": 0.9}),
    "ppod-offline": OFFLINE,
    "ppod-online": ONLINE,
}
"""Figure 3: every method at its own best of five settings."""


def changed(method: Method, **settings: Any) -> Method:
    """Return the method with some settings of training changed."""
    return replace(method, settings={**method.settings, **settings})


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training, and its evaluation."""

    group: str
    """The experiment, a folder; its runs may be shared by others."""
    name: str
    method: Method
    prompts: tuple[str, ...]
    seed: int
    queries: int = QUERIES
    updates: int = UPDATES
    also: dict[str, Any] = field(default_factory=dict)
    """What else is measured: "stages" of an online run, "unseen" prompts, a "curve" over training."""


def figure3() -> Iterator[Run]:
    """Every method on every prompt, at equal reward queries and updates."""
    for seed in SEEDS:
        for prompt in PAPER_PROMPTS:
            for name, method in METHODS.items():
                also = {"unseen": True} if name.startswith("ppod") else {}
                if name == "ppod-online":
                    also["stages"] = True
                yield Run(group="figure3", name=name, method=method, prompts=(prompt,), seed=seed, also=also)


def figure6() -> Iterator[Run]:
    """Offline at the queries and updates that online has had after two and after three of its four stages."""
    for seed in SEEDS:
        for prompt in PAPER_PROMPTS:
            for stage in (2, 3):
                yield Run(
                    group="figure6",
                    name=f"ppod-offline-{stage}",
                    method=OFFLINE,
                    prompts=(prompt,),
                    seed=seed,
                    queries=QUERIES * stage // 4,
                    updates=UPDATES * stage // 4,
                    also={"unseen": True},
                )


def figure2() -> Iterator[Run]:
    """With and without the clip, offline, three times as many updates; everything else the same."""
    for seed in SEEDS:
        for prompt in PAPER_PROMPTS[::2]:
            for name, clip in (("clip", {}), ("no-clip", {"log_ratio_clip": float("inf")})):
                method = changed(HARD, **clip)
                yield Run(
                    group="figure2",
                    name=name,
                    method=method,
                    prompts=(prompt,),
                    seed=seed,
                    updates=3 * UPDATES,
                    also={"curve": UPDATES // 2},
                )


def table1() -> Iterator[Run]:
    """Cross-entropy is in figure3; squared error on the same data."""
    for seed in SEEDS:
        for prompt in PAPER_PROMPTS:
            method = replace(OFFLINE, objective="ppod-mse")
            yield Run(group="table1", name="ppod-mse", method=method, prompts=(prompt,), seed=seed)


def frequency() -> Iterator[Run]:
    """Yield runs of the paper's conjecture that more frequent stages do better; 1 and 4 stages are in figure3."""
    for seed in SEEDS[:1]:
        for prompt in PAPER_PROMPTS:
            for stages in (2, 8, 16):
                method = replace(ONLINE, stages=stages)
                yield Run(
                    group="frequency", name=f"stages-{stages}", method=method, prompts=(prompt,), seed=seed
                )


def same_shards() -> Iterator[Run]:
    """Yield every objective offline on the stored shards of the first seed, of a count and a composition prompt."""
    for prompt in PAPER_PROMPTS[1:3]:
        for name in ("dpok", "ddpo", "d3po", "prdp"):
            method = replace(METHODS[name], stages=1)
            yield Run(group="same-shards", name=name, method=method, prompts=(prompt,), seed=0)
        for name in ("sft-best", "diffusion-dpo"):
            yield Run(
                group="same-shards", name=name, method=Method(objective=name), prompts=(prompt,), seed=0
            )


def beyond() -> Iterator[Run]:
    """One change at a time to the first seed's runs of figure3, on a prompt that counts and one that composes."""
    online = {
        "hard-labels-online": replace(HARD, stages=4),
        "hard-labels-offline": HARD,
        "anchor-stage": changed(ONLINE, clip_anchor="stage"),
        "pessimistic-step": changed(ONLINE, clip_mode="pessimistic-step"),
        "pessimistic-pair": changed(ONLINE, clip_mode="pessimistic-pair"),
        "shared-noise": replace(ONLINE, data={"initial_noise": "per-prompt"}),
        "all-timesteps": changed(ONLINE, timesteps_per_update=19, pairs_per_step=2),
        "fewer-pairs": replace(ONLINE, pairs={**ONLINE.pairs, "num_pairs_per_prompt": 32}),
    }
    for prompt in PAPER_PROMPTS[1:3]:
        for name, method in online.items():
            yield Run(group="beyond", name=name, method=method, prompts=(prompt,), seed=0)
        yield Run(
            group="beyond", name="shuffled", method=OFFLINE, prompts=(prompt,), seed=0, also={"shuffle": True}
        )
    yield Run(
        group="beyond",
        name="four-prompts",
        method=ONLINE,
        prompts=PAPER_PROMPTS,
        seed=0,
        updates=4 * UPDATES,
    )


EXPERIMENTS = {
    "figure3": figure3,
    "figure6": figure6,
    "table1": table1,
    "figure2": figure2,
    "frequency": frequency,
    "same-shards": same_shards,
    "beyond": beyond,
}
