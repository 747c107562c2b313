"""Every experiment as a list of runs: what is trained, on which prompts, with which seed.

The methods' settings are those that the same three trials found for each (`tune.py`), on other prompts than these.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from lab import PAPER_PROMPTS, Method
from tune import BASES, trials

SEEDS = (0, 1, 2, 3, 4)
FEWER_SEEDS = SEEDS[:3]
BUDGETS = (128, 256)
"""Reward queries a prompt."""
UNSEEN = {
    "A green colored rabbit": ("a green colored pig", "a green colored dog"),
    "Four wolves in the park": ("four cats in the park", "four wolves on the beach"),
    "A cat and a dog": ("a cat and a pig", "a bird and a dog"),
    "A dog on the moon": ("a cat on the moon", "a rabbit on the moon"),
}
"""Prompts of the same kind that share words with the trained one, for how far training carries over."""
TRAINED_12 = (
    *("a red colored cat", "a blue colored bird", "a green colored wolf"),
    *("two pigs in the park", "three rabbits on the beach", "four birds on the moon"),
    *("a cat and a wolf", "a pig and a rabbit", "a dog and a bird"),
    *("a wolf on the beach", "a bird in the park", "a pig on the moon"),
)
HELD_OUT_12 = (
    *("a green colored cat", "a red colored dog", "a blue colored rabbit"),
    *("two cats on the moon", "three wolves in the park", "four dogs on the beach"),
    *("a rabbit and a bird", "a wolf and a pig", "a cat and a bird"),
    *("a dog in the park", "a rabbit on the moon", "a cat on the beach"),
)
"""Of the same kinds as TRAINED_12: colour, count, composition, location."""
HARDER = ("a cat and a dog on the moon", "three green colored pigs on the moon")

CHOSEN = {
    "sft": "base",
    "dpok": "8 stages, longer, falling",
    "ddpo": "8 stages, longer, falling",
    "d3po": "8 stages, longer, falling",
    "prdp": "8 stages, longer, falling",
    "ppod-offline": "longer, falling",
    "ppod-online": "base",
}
"""The best trial of each method (`tune.json`)."""
METHODS: dict[str, Method] = {name: trials(BASES[name])[trial] for name, trial in CHOSEN.items()}
ONLINE, OFFLINE = METHODS["ppod-online"], METHODS["ppod-offline"]


def changed(method: Method, **settings: Any) -> Method:
    """Return the method with some settings of training changed."""
    return replace(method, settings={**method.settings, **settings})


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training, and its evaluation."""

    name: str
    method: Method
    prompts: tuple[str, ...]
    queries: int
    seed: int
    also: dict[str, Any] = field(default_factory=dict)
    """What else is measured or done: "stages" of an online run, "unseen" prompts, a "curve" over training, "shuffle"d
    rewards."""


def figure3() -> Iterator[Run]:
    """Every method on every prompt, at equal reward queries; the smaller budget first, seed by seed."""
    for queries in BUDGETS:
        for seed in SEEDS:
            for prompt in PAPER_PROMPTS:
                for name, method in METHODS.items():
                    unseen = UNSEEN[prompt] if name.startswith("ppod") else ()
                    also = {"unseen": unseen, "stages": method.stages > 1}
                    yield Run(
                        name=name, method=method, prompts=(prompt,), queries=queries, seed=seed, also=also
                    )


def table1() -> Iterator[Run]:
    """Squared error on the data of offline ppod; cross-entropy is in figure3."""
    for seed in SEEDS:
        for prompt in PAPER_PROMPTS:
            method = replace(OFFLINE, objective="ppod-mse")
            yield Run(name="ppod-mse", method=method, prompts=(prompt,), queries=BUDGETS[0], seed=seed)


def figure2() -> Iterator[Run]:
    """With and without the clip, offline, Eq. 10 to the letter, three updates a query; everything else the same."""
    for seed in SEEDS:
        for prompt in PAPER_PROMPTS[::2]:
            for name, settings in (("clip", {}), ("no-clip", {"log_ratio_clip": float("inf")})):
                method = Method(objective="ppod", settings=settings, updates_per_query=3)
                yield Run(
                    name=name, method=method, prompts=(prompt,), queries=128, seed=seed, also={"curve": 64}
                )


def frequency() -> Iterator[Run]:
    """Yield runs of the paper's conjecture that more frequent stages do better, with replay and without."""
    for seed in FEWER_SEEDS:
        for stages in (2, 4, 8, 16):
            for name, replayed in (("replay", None), ("no-replay", 0)):
                method = replace(ONLINE, stages=stages, replay_stages=replayed)
                yield Run(
                    name=f"{stages}-stages-{name}",
                    method=method,
                    prompts=(PAPER_PROMPTS[2],),
                    queries=BUDGETS[1],
                    seed=seed,
                )


def same_shards() -> Iterator[Run]:
    """Every objective offline on the stored shards of a seed, of a count and a composition prompt."""
    for seed in FEWER_SEEDS:
        for prompt in PAPER_PROMPTS[1:3]:
            for name in ("dpok", "ddpo", "d3po", "prdp"):
                method = replace(METHODS[name], stages=1)
                yield Run(name=name, method=method, prompts=(prompt,), queries=BUDGETS[0], seed=seed)


def harder() -> Iterator[Run]:
    """Every method on prompts of three facts."""
    for seed in FEWER_SEEDS:
        for prompt in HARDER:
            for name, method in METHODS.items():
                yield Run(name=name, method=method, prompts=(prompt,), queries=BUDGETS[1], seed=seed)


def beyond() -> Iterator[Run]:
    """One change at a time to online ppod, on the prompt that composes."""
    online = {
        "hard-labels": replace(ONLINE, pairs={}),
        "no-averaging": changed(ONLINE, ema_decay=0.0),
        "anchor-stage": changed(ONLINE, clip_anchor="stage"),
        "pessimistic-step": changed(ONLINE, clip_mode="pessimistic-step"),
        "pessimistic-pair": changed(ONLINE, clip_mode="pessimistic-pair"),
        "shared-noise": replace(ONLINE, data={"initial_noise": "per-prompt"}),
    }
    for seed in FEWER_SEEDS:
        for name, method in online.items():
            yield Run(name=name, method=method, prompts=(PAPER_PROMPTS[2],), queries=BUDGETS[1], seed=seed)
        yield Run(
            name="shuffled",
            method=OFFLINE,
            prompts=(PAPER_PROMPTS[2],),
            queries=BUDGETS[1],
            seed=seed,
            also={"shuffle": True},
        )


def many() -> Iterator[Run]:
    """One policy for twelve prompts, each with a budget of its own, and twelve others of the same kinds held out."""
    for seed in FEWER_SEEDS:
        for name in ("ppod-offline", "ppod-online"):
            per_query = METHODS[name].updates_per_query * len(TRAINED_12)
            yield Run(
                name=name,
                method=replace(METHODS[name], updates_per_query=per_query),
                prompts=TRAINED_12,
                queries=BUDGETS[0],
                seed=seed,
                also={"unseen": HELD_OUT_12},
            )


EXPERIMENTS: dict[str, Callable[[], Iterator[Run]]] = {
    "figure3": figure3,
    "table1": table1,
    "figure2": figure2,
    "frequency": frequency,
    "same-shards": same_shards,
    "harder": harder,
    "many": many,
    "beyond": beyond,
}
