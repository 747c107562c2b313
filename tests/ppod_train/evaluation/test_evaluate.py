"""An evaluation measures each image once, on noise that is not training noise, and compares equal seeds."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ppod_data.diffusion.models.model import DiffusionModel
from ppod_data.diffusion.models.source import ModelSource
from ppod_data.errors import ConfigError, DamagedError, RewardError
from ppod_data.rewards.usage import Usage
from ppod_train.distributed import SINGLE_PROCESS
from ppod_train.evaluation.evaluate import eval_spec, evaluate, measure
from ppod_train.evaluation.files import read_evaluation, write_evaluation
from ppod_train.evaluation.image_statistics import features, thumbnail
from ppod_train.evaluation.metrics import PromptMeasurement, summarise
from ppod_train.evaluation.settings import EvalSettings
from ppod_train.evaluation.usage import usage_since
from ppod_train.run.compare import run_evaluation
from tests.support.processes import together
from tests.support.progress import Counts

PROMPTS = ("a cat", "two dogs <b>&</b>")
SETTINGS = EvalSettings(prompts=PROMPTS, num_images_per_prompt=6, num_inference_steps=2, batch_size=4, seed=3)


class Brightness:
    """A scorer of mean brightness that notes the batches it was given."""

    name = "brightness"
    revision = "1"

    def __init__(self) -> None:
        self.batches: list[tuple[str, ...]] = []

    def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> list[float]:
        self.batches.append(tuple(prompts))
        return [float(np.asarray(image).mean()) for image in images]


class Checker(Brightness):
    """The same, and bright images are correct."""

    name = "checker"

    def correct(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> list[bool]:
        return [float(np.asarray(image).mean()) > 100 for image in images]


def grey(value: int) -> Image.Image:
    return Image.new("RGB", (16, 16), (value, value, value))


def stream(values: dict[str, list[int]]) -> list[tuple[str, int, Image.Image]]:
    return [(prompt, k, grey(value)) for prompt, row in values.items() for k, value in enumerate(row)]


def test_measures_of_known_images() -> None:
    images = stream({"a": [0, 255, 255], "b": [51, 51]})
    measured = measure(images, Checker(), check_reward=Brightness(), batch_size=2)
    assert measured["a"].rewards.tolist() == [0, 255, 255]
    assert measured["a"].correct is not None and measured["a"].correct.tolist() == [False, True, True]
    assert measured["a"].check_rewards is not None and measured["a"].check_correct is None
    assert measured["a"].diversity == pytest.approx(2 / 3)  # pairs: 1, 1 and 0 apart
    assert measured["b"].diversity == pytest.approx(0.0)
    overall, prompts = summarise(measured)
    assert (overall.num_images, overall.correct, overall.check_correct) == (5, 2 / 5, None)
    assert overall.reward_mean == pytest.approx(612 / 5)
    assert overall.diversity == pytest.approx(1 / 3)
    assert (prompts["b"].reward_mean, prompts["b"].reward_low) == (51, None)
    assert prompts["b"].win_rate is None and prompts["b"].gain is None


def test_batches_hold_one_prompt_and_report_their_size() -> None:
    scorer = Brightness()
    counts = Counts()
    measure(stream({"a": [1, 2, 3], "b": [4]}), scorer, batch_size=2, progress=counts)
    assert scorer.batches == [("a", "a"), ("a",), ("b",)]
    assert counts.advanced == [2, 1, 1]


def test_only_the_first_images_are_kept() -> None:
    measured = measure(stream({"a": list(range(20))}), Brightness(), batch_size=8, num_kept_images=3)
    assert [image.getpixel((0, 0)) for image in measured["a"].images] == [(k, k, k) for k in range(3)]


def test_baseline_of_the_same_seeds() -> None:
    before = {"a": PromptMeasurement(rewards=np.array([0.0, 1.0, 2.0]))}
    after = {"a": PromptMeasurement(rewards=np.array([1.0, 1.0, 5.0]))}
    overall, prompts = summarise(after, before)
    assert overall.win_rate == pytest.approx(2.5 / 3)
    assert overall.gain == pytest.approx(4 / 3)
    assert prompts["a"].gain_low is None  # of three images


def test_baseline_of_other_images_is_refused() -> None:
    measured = {"a": PromptMeasurement(rewards=np.zeros(3))}
    with pytest.raises(ConfigError, match="other images of 'a'"):
        summarise(measured, {"a": PromptMeasurement(rewards=np.zeros(2))})


class Darkless(Checker):
    """Raises for black images, and gives white ones NaN."""

    name = "darkless"

    def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> list[float]:
        values = super().score(prompts, images)
        if 0 in values:
            raise ValueError("too dark")
        return [float("nan") if value == 255 else value for value in values]


def test_an_image_without_a_score_is_left_out_and_counted() -> None:
    images = stream({"a": [0, 10, 20, 255, 30, 40, 50, 120], "b": [0, 255]})
    measured = measure(images, Darkless(), check_reward=Brightness(), batch_size=4)
    assert np.isnan(measured["a"].rewards).tolist() == [True, False, False, True] + [False] * 4
    overall, prompts = summarise(measured)
    assert (overall.num_images, overall.num_failed, overall.num_check_failed) == (10, 4, 0)
    assert overall.reward_mean == prompts["a"].reward_mean == 45
    assert overall.correct == 1 / 6
    assert (
        prompts["b"].reward_mean is None and prompts["b"].reward_low is None and prompts["b"].correct is None
    )
    assert overall.check_reward_mean == pytest.approx((270 + 255 + 255) / 10)


def test_gains_compare_the_images_that_have_a_score_in_both() -> None:
    before = {"a": PromptMeasurement(rewards=np.array([np.nan, 1.0, 2.0, 7.0]))}
    after = {"a": PromptMeasurement(rewards=np.array([1.0, 2.0, np.nan, 9.0]))}
    overall, _ = summarise(after, before)
    assert (overall.gain, overall.win_rate) == (1.5, 1.0)


def test_a_reward_that_scores_nothing_ends_the_evaluation_by_name(tiny_model: DiffusionModel) -> None:
    class Broken(Brightness):
        name = "broken"

        def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> list[float]:
            super().score(prompts, images)
            raise KeyError("model")

    broken = Broken()
    with pytest.raises(
        RewardError, match=r"broken could score none of the first \d+ images \(KeyError: 'model'\)"
    ):
        evaluate(tiny_model, broken, SETTINGS)
    few = dataclasses.replace(SETTINGS, num_images_per_prompt=2)
    with pytest.raises(RewardError, match=r"broken could score none of 4 images \(KeyError: 'model'\)"):
        evaluate(tiny_model, Broken(), few)


def test_a_scorer_that_changes_its_images_changes_nothing_else() -> None:
    class Shrinking(Brightness):
        name = "shrinking"

        def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> list[float]:
            values = super().score(prompts, images)
            for image in images:
                image.paste((0, 0, 0), (0, 0, 16, 16))
                image.thumbnail((4, 4))
            assert isinstance(prompts, list) and isinstance(images, list)
            prompts.clear()
            images.clear()
            return values

    images = {"a": [10, 200, 90]}
    clean = measure(stream(images), Brightness(), check_reward=Brightness())["a"]
    other = measure(stream(images), Shrinking(), check_reward=Brightness())["a"]
    assert clean.check_rewards is not None and other.check_rewards is not None
    assert clean.check_rewards.tolist() == other.check_rewards.tolist()
    assert clean.diversity == other.diversity
    assert [image.tobytes() for image in clean.images] == [image.tobytes() for image in other.images]


def test_thumbnails_are_box_averages() -> None:
    image = Image.new("RGB", (16, 16))
    image.paste((255, 0, 0), (0, 0, 2, 1))  # half of the first box's four pixels
    pooled = features(thumbnail(image)[None]).reshape(8, 8, 3)
    assert pooled[0, 0] == pytest.approx([128 / 255, 0, 0], abs=1 / 255)
    assert pooled.sum() == pooled[0, 0].sum()


def test_same_settings_give_the_same_images(tiny_model: DiffusionModel) -> None:
    first = evaluate(tiny_model, Checker(), SETTINGS)
    again = evaluate(tiny_model, Checker(), SETTINGS, baseline=first)
    assert list(again.prompts) == list(PROMPTS)
    assert again.overall.num_images == 12
    assert again.overall.win_rate == 0.5 and again.overall.gain == 0
    assert again.settings.guidance_scale is not None
    for prompt in PROMPTS:
        assert np.array_equal(first.measurements[prompt].rewards, again.measurements[prompt].rewards)


def test_evaluation_noise_is_neither_training_nor_validation_noise(tiny_model: DiffusionModel) -> None:
    spec = eval_spec(tiny_model, SETTINGS)
    validation = eval_spec(tiny_model, dataclasses.replace(SETTINGS, validation=True))
    assert (spec.purpose, validation.purpose) == ("eval", "validation")


def test_baseline_with_other_settings_is_refused_by_name(tiny_model: DiffusionModel) -> None:
    before = evaluate(tiny_model, Brightness(), SETTINGS)
    with pytest.raises(ConfigError, match="seed 3, not 4"):
        evaluate(tiny_model, Brightness(), dataclasses.replace(SETTINGS, seed=4), baseline=before)


def test_impossible_settings_are_refused(tiny_model: DiffusionModel) -> None:
    with pytest.raises(ConfigError):
        evaluate(tiny_model, Brightness(), dataclasses.replace(SETTINGS, num_images_per_prompt=0))


def test_evaluation_survives_its_folder(tiny_model: DiffusionModel, tmp_path: Path) -> None:
    result = evaluate(tiny_model, Checker(), SETTINGS, check_reward=Brightness())
    write_evaluation(tmp_path, result)
    read = read_evaluation(tmp_path)
    assert read.overall == result.overall and read.prompts == result.prompts
    assert read.settings == result.settings and read.check_scorer == result.check_scorer
    for prompt in PROMPTS:
        assert np.array_equal(read.measurements[prompt].rewards, result.measurements[prompt].rewards)
        kept = zip(read.measurements[prompt].images, result.measurements[prompt].images, strict=True)
        assert all(one.tobytes() == other.convert("RGB").tobytes() for one, other in kept)
    again = evaluate(tiny_model, Checker(), SETTINGS, baseline=read)
    assert again.overall.gain == 0


def test_an_evaluation_with_failed_images_survives_its_folder(
    tiny_model: DiffusionModel, tmp_path: Path
) -> None:
    class Picky(Checker):
        def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> list[float]:
            values = super().score(prompts, images)
            return [float("inf"), *values[1:]]

    result = evaluate(tiny_model, Picky(), SETTINGS)
    assert result.overall.num_failed == 4
    write_evaluation(tmp_path, result)
    json.loads((tmp_path / "eval.json").read_text(), parse_constant=pytest.fail)
    read = read_evaluation(tmp_path)
    assert read.overall == result.overall
    assert np.array_equal(
        read.measurements["a cat"].rewards, result.measurements["a cat"].rewards, equal_nan=True
    )
    assert evaluate(tiny_model, Picky(), SETTINGS, baseline=read).overall.gain == 0


def test_half_an_evaluation_is_named(tmp_path: Path) -> None:
    (tmp_path / "eval.json").write_text('{"format": 1')
    with pytest.raises(DamagedError, match="evaluate again"):
        read_evaluation(tmp_path)


def test_run_evaluation_writes_both_policies(tiny_pipeline: Path, tmp_path: Path) -> None:
    policy = ModelSource(model=str(tiny_pipeline))
    counts = Counts()
    comparison = run_evaluation(
        policy,
        tmp_path,
        Checker(),
        SETTINGS,
        baseline=policy,
        check_reward=Brightness(),
        progress=counts,
    )
    record = json.loads((tmp_path / "summary.json").read_text())
    assert (counts.total, sum(counts.advanced)) == (24, 24)
    assert record["before"]["num_images"] == 12
    assert record["after"]["gain"] == 0
    assert list(record["after"]["prompts"]) == list(PROMPTS)
    assert record == json.loads(json.dumps(comparison.summary()))
    assert Image.open(comparison.grid_path).width > 300
    assert comparison.report_path.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_run_evaluation_without_baseline(tiny_pipeline: Path, tmp_path: Path) -> None:
    run_evaluation(ModelSource(model=str(tiny_pipeline)), tmp_path, Brightness(), SETTINGS, baseline=None)
    assert json.loads((tmp_path / "summary.json").read_text())["before"] is None
    assert not (tmp_path / "before").exists()


def test_requests_and_tokens_of_all_processes_are_summed() -> None:
    earlier = Usage(requests=2, prompt_tokens=200, answer_tokens=4)
    now = Usage(requests=5, prompt_tokens=500, answer_tokens=10)
    spent = Usage(requests=6, prompt_tokens=600, answer_tokens=12)
    assert together(2, lambda workers: usage_since(earlier, now, workers)) == [spent, spent]
    assert usage_since(None, now, SINGLE_PROCESS) == now
    assert usage_since(None, None, SINGLE_PROCESS) is None
