"""The two scorers of the embedded world, with their shipped weights, on stored renders and on garbage."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from ppod_data.errors import ConfigError
from ppod_data.rewards import scenes, scenes_check
from ppod_data.scenes.captions import ANIMALS, COLOURS, PAPER_PROMPTS, Facts, caption
from ppod_data.scenes.scoring import LOG_FLOOR, SceneScorer, fact_log_probs

RENDERS = Path(__file__).parents[2] / "fixtures" / "scenes_renders"
Build = Callable[[], SceneScorer]


@pytest.fixture(scope="module", params=[scenes.build, scenes_check.build], ids=["scenes", "scenes-check"])
def scorer(request: pytest.FixtureRequest) -> SceneScorer:
    build: Build = request.param
    return build()


@pytest.fixture(scope="module")
def renders() -> list[tuple[str, Image.Image]]:
    """24 held-out renders and the prompt that each one shows."""
    listed = json.loads((RENDERS / "prompts.json").read_text())
    return [(prompt, Image.open(RENDERS / name).convert("RGB")) for name, prompt in listed.items()]


def test_all_held_out_renders_are_read_right(
    scorer: SceneScorer, renders: list[tuple[str, Image.Image]]
) -> None:
    prompts, images = [prompt for prompt, _ in renders], [image for _, image in renders]
    assert len(images) == 24
    assert scorer.correct(prompts, images) == [True] * 24
    assert min(scorer.score(prompts, images)) > -2.0


def test_a_picture_of_something_else_scores_lower_and_is_not_correct(
    scorer: SceneScorer, renders: list[tuple[str, Image.Image]]
) -> None:
    for prompt, image in renders:
        others = [other for other, _ in renders if other != prompt and other not in prompt]
        asked = [prompt, *others]
        right, *wrong = scorer.score(asked, [image] * len(asked))
        assert right > max(wrong) + 1.0, prompt
        assert not any(scorer.correct(others, [image] * len(others))), prompt


@pytest.mark.parametrize("fact", ["count", "colour", "place", "animal", "second animal"])
def test_each_fact_of_the_prompt_counts(
    scorer: SceneScorer, renders: list[tuple[str, Image.Image]], fact: str
) -> None:
    images = dict(renders)
    pairs = {
        "count": ("four wolves in the park", "three wolves in the park"),
        "colour": ("a green colored rabbit", "a red colored rabbit"),
        "place": ("a dog on the moon", "a dog on the beach"),
        "animal": ("a dog on the moon", "a cat on the moon"),
        "second animal": ("a cat and a dog", "a cat and a pig"),
    }
    right, wrong = pairs[fact]
    high, low = scorer.score([right, wrong], [images[right]] * 2)
    assert high - low > 2.0


def test_noise_blobs_and_plain_pictures_score_low(scorer: SceneScorer) -> None:
    rng = np.random.default_rng(5)
    noise = Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
    pictures = [noise, noise.filter(ImageFilter.GaussianBlur(4)), Image.new("RGB", (32, 32), (160, 60, 200))]
    for prompt in PAPER_PROMPTS:
        assert max(scorer.score([prompt] * 3, pictures)) < 2 * LOG_FLOOR + 2.0
        assert not any(scorer.correct([prompt] * 3, pictures))


def test_a_score_is_between_its_floor_and_zero_in_any_case_and_any_batch(
    scorer: SceneScorer, renders: list[tuple[str, Image.Image]]
) -> None:
    images = [image for _, image in renders]
    prompts = ["A GREEN COLORED RABBIT"] * len(images)
    together = scorer.score(prompts, images)
    one_by_one = [
        scorer.score([prompt.lower()], [image])[0] for prompt, image in zip(prompts, images, strict=True)
    ]
    assert together == pytest.approx(one_by_one, abs=1e-4)
    assert all(4 * LOG_FLOOR <= score <= 0 for score in together)


def test_unnamed_colour_and_place_are_no_facts(scorer: SceneScorer) -> None:
    row = {
        "present": [-1.0] * 6,
        "absent": [-0.1] * 6,
        "total": [-2.0] * 6,
        "colour": [-3.0] * 6,
        "place": [-3.0] * 4,
    }
    assert len(fact_log_probs(Facts(("dog",), 1), row)) == 3
    assert len(fact_log_probs(Facts(("cat", "dog"), 2), row)) == 4
    assert len(fact_log_probs(Facts(("dog",), 1, COLOURS[0], "moon"), row)) == 5


def test_unknown_prompts_and_unequal_lists_are_refused(scorer: SceneScorer) -> None:
    image = Image.new("RGB", (32, 32))
    with pytest.raises(ConfigError, match="a zebra on mars"):
        scorer.score(["a zebra on mars"], [image])
    with pytest.raises(ConfigError, match="1 prompts for 2 images"):
        scorer.correct([caption(Facts((ANIMALS[0],), 1, "red"))], [image, image])


def test_the_two_scorers_are_different_and_named() -> None:
    first, second = scenes.build(), scenes_check.build()
    assert (first.name, second.name) == ("scenes", "scenes-check")
    assert first.revision != second.revision and len(first.revision) == len(second.revision) == 16
    assert first.revision == scenes.build().revision


def test_missing_weights_say_how_to_make_them(tmp_path: Path) -> None:
    from ppod_data.scenes.readers import ConvReader

    with pytest.raises(ConfigError, match="make scenes"):
        SceneScorer("scenes", ConvReader(), tmp_path / "scenes.safetensors")
