"""The before/after picture: rows, frames and labels where they belong, whatever the prompt or image size."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from ppod_train.evaluation.grids import _CORRECT, _UNKNOWN, _WRONG, before_after_grid, fitted, legible, scaled
from ppod_train.evaluation.metrics import EvalResult, PromptMeasurement, Scorer, summarise
from ppod_train.evaluation.settings import EvalSettings

Size = tuple[int, int]


def result(
    colour: tuple[int, int, int], correct: list[bool] | None, *, prompt: str = "a dog", size: Size = (32, 32)
) -> EvalResult:
    images = tuple(Image.new("RGB", size, colour) for _ in range(4))
    known = None if correct is None else np.array(correct)
    measurements = {prompt: PromptMeasurement(rewards=np.arange(4.0), correct=known, images=images)}
    overall, prompts = summarise(measurements)
    return EvalResult(
        model="tiny",
        adapter=None,
        policy_fingerprint="0" * 64,
        settings=EvalSettings(prompts=(prompt,)),
        scorer=Scorer(name="scenes", revision="1"),
        check_scorer=None,
        overall=overall,
        prompts=prompts,
        measurements=measurements,
    )


def pixels_of(picture: Image.Image, colour: tuple[int, int, int]) -> int:
    return int((np.asarray(picture) == colour).all(axis=-1).sum())


@pytest.mark.parametrize(
    ("adapter", "title", "labels"),
    [
        (None, "Before and after training, the same seeds", ["before", "after"]),
        ("run-a/policy", "Baseline and policy, the same seeds", ["baseline", "policy"]),
    ],
)
def test_a_baseline_that_is_a_policy_is_not_called_the_state_before_training(
    monkeypatch: pytest.MonkeyPatch, adapter: str | None, title: str, labels: list[str]
) -> None:
    texts: list[str] = []
    draw = ImageDraw.ImageDraw.text

    def noted(self: ImageDraw.ImageDraw, place: Any, text: str, *options: Any, **more: Any) -> None:
        texts.append(text)
        draw(self, place, text, *options, **more)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", noted)
    before = replace(result((1, 1, 1), None), adapter=adapter)
    before_after_grid(before, replace(result((2, 2, 2), None), adapter="run-b/policy"))
    assert texts[0] == title
    assert [text for text in texts if text in ("before", "after", "baseline", "policy")] == labels


def test_before_is_above_after() -> None:
    red, blue = (200, 10, 10), (10, 10, 200)
    picture = np.asarray(before_after_grid(result(red, None), result(blue, None)))
    rows = [np.flatnonzero((picture == colour).all(axis=-1).any(axis=1)) for colour in (red, blue)]
    assert rows[0].max() < rows[1].min()
    columns = [np.flatnonzero((picture == colour).all(axis=-1).any(axis=0)) for colour in (red, blue)]
    assert np.array_equal(columns[0], columns[1])


def test_frames_say_which_images_are_correct() -> None:
    picture = before_after_grid(None, result((0, 0, 0), [True, True, False, True]))
    assert pixels_of(picture, _CORRECT) > 2 * pixels_of(picture, _WRONG) > 0


def test_frames_are_neutral_where_the_scorer_cannot_say() -> None:
    picture = before_after_grid(None, result((0, 0, 0), None))
    assert pixels_of(picture, _CORRECT) == pixels_of(picture, _WRONG) == 0
    assert pixels_of(picture, _UNKNOWN) > 0


@pytest.mark.parametrize("size", [(16, 16), (32, 32), (64, 48), (512, 512), (768, 512)])
def test_any_image_size_gives_a_picture_of_reasonable_size(size: Size) -> None:
    picture = before_after_grid(result((9, 9, 9), None, size=size), result((9, 9, 9), None, size=size))
    assert 500 < picture.width < 1300 and 300 < picture.height < 1000


def test_long_prompts_are_cut_with_an_ellipsis() -> None:
    prompt = "a very long prompt about a dog " * 20
    cut = fitted(prompt, 300)
    assert cut.endswith("…") and len(cut) < 60
    assert fitted("a dog", 300) == "a dog"
    assert before_after_grid(None, result((1, 1, 1), None, prompt=prompt)).width < 1000


def test_scaling_keeps_an_image_that_fits() -> None:
    image = Image.new("RGB", (32, 32))
    assert scaled(image, (32, 32)) is image
    assert scaled(image, (128, 128)).size == (128, 128)


@pytest.mark.parametrize(
    ("prompt", "shown"),
    [
        ("A cat and a dog", "A cat and a dog"),
        ("ein grüner Hase am Fuß – “süß”", 'ein gruner Hase am Fuss - "suss"'),
        ("un café señor, 3 × Å", "un cafe senor, 3 x A"),
        ("кошка и собака", "prompt 7, in letters that this picture lacks"),
        ("一只猫和一只狗", "prompt 7, in letters that this picture lacks"),
        ("a cat 😀", "prompt 7, in letters that this picture lacks"),
    ],
)
def test_a_prompt_is_never_drawn_as_boxes(prompt: str, shown: str) -> None:
    assert legible(prompt, 7) == shown
