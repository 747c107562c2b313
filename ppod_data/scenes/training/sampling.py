"""Random training scenes: a caption, and an image that in 60 % of the cases contradicts it."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from ppod_data.scenes.captions import ANIMALS, COLOURS, PLACES, Facts, caption
from ppod_data.scenes.training.render import NATURAL, Scene, render

WRONG_SHARE = 0.6  # of the captioned scenes: the image deviates from its caption in one fact
EMPTY_SHARE = 0.1  # of all scenes: the empty caption, so that guidance works
KIND_SHARES = {"colour": 0.24, "count": 0.24, "composition": 0.30, "location": 0.22}


@dataclass(frozen=True)
class Captioned:
    """One training scene: its caption, its content, and the image (32x32 RGB)."""

    caption: str
    scene: Scene
    image: Image.Image


def sample(rng: np.random.Generator) -> Captioned:
    """Return one scene of the pretraining set."""
    facts = sample_facts(rng)
    scene = deviating_scene(facts, rng) if rng.random() < WRONG_SHARE else faithful_scene(facts, rng)
    text = caption(facts, colored=bool(rng.integers(2)))
    return Captioned("" if rng.random() < EMPTY_SHARE else text, scene, render(scene, rng))


def sample_facts(rng: np.random.Generator) -> Facts:
    """Return the facts of one prompt; the four kinds in the proportions of `KIND_SHARES`."""
    kind = rng.choice(list(KIND_SHARES), p=list(KIND_SHARES.values()))
    animal, other = (str(a) for a in rng.choice(ANIMALS, 2, replace=False))
    place = str(rng.choice(PLACES[1:]))
    if kind == "colour":
        return Facts((animal,), 1, str(rng.choice(COLOURS)), place if rng.random() < 0.08 else None)
    if kind == "count":
        return Facts((animal,), int(rng.integers(2, 6)), None, place if rng.random() < 0.5 else None)
    if kind == "composition":
        return Facts((animal, other), 2, None, place if rng.random() < 0.1 else None)
    return Facts((animal,), 1, None, place if rng.random() < 0.9 else None)


def faithful_scene(facts: Facts, rng: np.random.Generator) -> Scene:
    """Return a scene that shows all facts; unstated facts are usually plain and natural."""
    animals = facts.animals * facts.count if len(facts.animals) == 1 else facts.animals
    if len(animals) == 2 and rng.integers(2):
        animals = animals[::-1]
    free_place = str(rng.choice(PLACES[1:])) if rng.random() < 0.1 else "plain"
    return Scene(animals, facts.colour or NATURAL, facts.place or free_place)


def deviating_scene(facts: Facts, rng: np.random.Generator) -> Scene:
    """Return a scene in which one fact of the prompt is wrong, as in captions from the web."""
    right = faithful_scene(facts, rng)
    if facts.kind == "composition":
        return Scene(_wrong_pair(facts.animals, rng), right.colour, right.place)
    wrong: list[str] = ["count"] if facts.count > 1 else []
    wrong += ["colour"] if facts.colour is not None else []
    wrong += ["place"] if facts.place is not None else []
    fact = str(rng.choice(wrong)) if wrong else "animal"
    if fact == "colour":
        others = [NATURAL] * 8 + [c for c in COLOURS if c != facts.colour]
        return Scene(right.animals, str(rng.choice(others)), right.place)
    if fact == "place":
        places = ["plain"] * 2 + [p for p in PLACES[1:] if p != facts.place]
        return Scene(right.animals, right.colour, str(rng.choice(places)))
    if fact == "count":
        near = [n for n in range(1, 6) if 1 <= abs(n - facts.count) <= 2]
        return Scene(facts.animals * int(rng.choice(near)), right.colour, right.place)
    other = str(rng.choice([a for a in ANIMALS if a not in facts.animals]))
    return Scene((other,), right.colour, right.place)


def _wrong_pair(pair: tuple[str, ...], rng: np.random.Generator) -> tuple[str, ...]:
    """Return a wrong composition: one animal missing, or one kind twice."""
    kept = str(rng.choice(pair))
    return (kept,) if rng.random() < 0.6 else (kept, kept)
