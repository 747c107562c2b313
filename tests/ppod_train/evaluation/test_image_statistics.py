"""Statistics of images, their change from a baseline, and the rule that reads them."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ppod_train.evaluation.exploitation import find_in, moved
from ppod_train.evaluation.image_changes import DISTANCE, DIVERSITY, ImageSamples, image_changes
from ppod_train.evaluation.image_statistics import STATISTICS, Pixels, image_statistics, measured

REPOSITORY = Path(__file__).parents[3]


def statistics(pixels: Pixels) -> dict[str, float]:
    return dict(zip(STATISTICS, image_statistics(pixels).tolist(), strict=True))


def of(*colours: tuple[int, int, int], side: int = 16) -> Pixels:
    """Columns of the colours, one pixel wide each."""
    return np.tile(np.array(colours, np.uint8), (side, side // len(colours), 1)).reshape(side, side, 3)


def test_statistics_of_known_images() -> None:
    assert statistics(of((0, 0, 0))) == dict.fromkeys(STATISTICS, 0) | {"dark": 1}
    red = statistics(of((255, 0, 0)))
    assert (red["dark"], red["saturated"], red["colour_entropy"]) == (0, 1, 0)
    stripes = statistics(of((0, 0, 0), (255, 255, 255)))
    assert stripes["dark"] == 0.5 and stripes["edges"] == 1 and stripes["colour_entropy"] == 1
    assert stripes["detail"] == pytest.approx(0.5, abs=1e-6)


def test_odd_sizes_and_modes_are_measured() -> None:
    columns = measured([Image.new("L", (5, 3), 200), Image.new("RGBA", (2, 2))])
    assert columns["statistics"].shape == (2, len(STATISTICS)) and columns["thumbnails"].shape == (2, 8, 8, 3)


def test_detail_is_exact_for_large_images() -> None:
    """Sums of squares of a 4096 x 4096 image exceed 32 bits."""
    rows = np.indices((4096, 4096)).sum(axis=0) % 2 * 255
    board = np.repeat(rows.astype(np.uint8)[..., None], 3, axis=2)
    assert statistics(board)["detail"] == 0.5


def test_a_large_image_takes_milliseconds() -> None:
    """Far below the time of sampling it, even on a loaded machine: 20 times the measured 5 ms."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8))
    start = time.process_time()
    for _ in range(5):
        measured([noise])
    assert time.process_time() - start < 5 * 0.1


def samples(values: list[float], shade: int = 0) -> ImageSamples:
    columns = np.tile(np.array(values)[:, None], (1, len(STATISTICS)))
    thumbnails = np.full((len(values), 8, 8, 3), shade, np.uint8)
    thumbnails[::2] += 1
    return ImageSamples(columns, thumbnails)


def test_changes_are_paired_and_in_units_of_the_baselines_spread() -> None:
    before = [samples([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])]
    after = [samples([2.0, 3.0, 4.0, 5.0, 6.0, 7.0], shade=51)]
    change = image_changes(after, before)["edges"]
    assert (change.mean, change.change, change.change_low, change.change_high) == (4.5, 1.0, 1.0, 1.0)
    assert change.effect == pytest.approx(1 / np.std([1, 2, 3, 4, 5, 6], ddof=1))
    assert image_changes(after, before)["distance"].mean == pytest.approx(0.2)
    alone = image_changes(after)
    assert alone["edges"].change is None and "distance" not in alone
    assert image_changes(None, before) == {}


def test_a_statistic_that_the_baseline_keeps_constant_has_no_effect() -> None:
    """The mean of ten times 0.3 is rounded: in units of that error, any change would be huge."""
    before, after = [samples([0.3] * 10)], [samples([0.4] * 10)]
    assert np.full(10, 0.3).std() > 0
    changes = image_changes(after, before)
    assert changes["edges"].spread == 0 and changes["edges"].effect is None
    assert changes["edges"].change == pytest.approx(0.1)
    overall = {"gain": 1.0, "gain_low": 0.5, "gain_high": 1.5}
    assert find_in(overall, {"edges": asdict(changes["edges"])}) is None


def shaded(
    generator: np.random.Generator, prompts: int, images: int = 2, *, varied: float = 1, levels: int = 256
) -> list[ImageSamples]:
    """Images of one shade each, black but for a share of random shades."""
    shades = generator.integers(0, levels, (prompts, images, 1, 1, 1))
    shades[generator.random(shades.shape) >= varied] = 0
    columns = np.zeros((images, len(STATISTICS)))
    return [ImageSamples(columns, np.tile(row, (1, 8, 8, 3)).astype(np.uint8)) for row in shades]


@pytest.mark.parametrize(("images", "prompts", "varied"), [(12, 1, 1), (2, 8, 1), (3, 12, 0.3), (4, 8, 0.3)])
def test_the_interval_of_the_diversity_covers_its_error(images: int, prompts: int, varied: float) -> None:
    """Over 300 repetitions with the same distribution before and after, 95 % intervals contain 0."""
    generator = np.random.default_rng(1)
    inside = 0
    for _ in range(300):
        after, before = (shaded(generator, prompts, images, varied=varied) for _side in range(2))
        change = image_changes(after, before)[DIVERSITY]
        assert change.change_low is not None and change.change_high is not None
        inside += change.change_low <= 0 <= change.change_high
    assert inside >= 0.9 * 300


def test_two_images_have_no_spread_of_their_distances() -> None:
    generator = np.random.default_rng(2)
    change = image_changes(shaded(generator, 8), shaded(generator, 8))[DIVERSITY]
    assert change.spread is None and change.effect is None


@pytest.mark.parametrize("prompts", [1, 4])
def test_the_diversity_of_too_few_pairs_of_images_has_no_interval(prompts: int) -> None:
    generator = np.random.default_rng(3)
    change = image_changes(shaded(generator, prompts, levels=8), shaded(generator, prompts))[DIVERSITY]
    assert change.change is not None and (change.change_low, change.change_high) == (None, None)
    assert find_in(GAIN, {DIVERSITY: asdict(change)}) is None


def test_a_fall_of_the_diversity_of_two_images_is_found_and_named() -> None:
    generator = np.random.default_rng(4)
    change = image_changes(shaded(generator, 24, levels=32), shaded(generator, 24))[DIVERSITY]
    assert change.change is not None
    found = find_in(GAIN, {DIVERSITY: asdict(change)})
    percent = round(100 * change.change / (change.mean - change.change))
    assert found is not None and found.evidence == f"reward +2.10, diversity −{-percent} %"


GAIN = {"gain": 2.1, "gain_low": 1.8, "gain_high": 2.4}
FELL = {"gain": -2.0, "gain_low": -2.5, "gain_high": -1.5}


def check(value: float) -> dict[str, float]:
    return {"check_gain": value, "check_gain_low": value - 0.1, "check_gain_high": value + 0.1}


def change(effect: float, mean: float = 0.04, before: float = 0.1) -> dict[str, float]:
    difference = mean - before
    return {
        "mean": mean,
        "spread": 0.02,
        "change": difference,
        "change_low": difference - 0.001,
        "change_high": difference + 0.001,
        "effect": effect,
    }


@pytest.mark.parametrize(
    ("overall", "images", "kind"),
    [
        (GAIN | check(-0.4), {}, "exploited"),
        (GAIN | check(0.0), {}, None),
        (GAIN, {"edges": change(-3.0)}, "exploited"),
        (GAIN | check(0.0), {"edges": change(-3.0)}, "exploited"),
        (GAIN | check(1.0), {"edges": change(-3.0)}, None),
        (GAIN, {"edges": change(-0.6)}, None),
        (GAIN, {"diversity": change(-0.6)}, "exploited"),
        (FELL, {"edges": change(-3.0)}, "collapsed"),
        (FELL | check(-1.0), {"edges": change(-0.6)}, None),
        ({}, {"edges": change(-3.0)}, None),
    ],
)
def test_the_rule(overall: dict[str, Any], images: dict[str, Any], kind: str | None) -> None:
    found = find_in(overall, images)
    assert (found.kind if found else None) == kind


def test_a_finding_names_what_happened() -> None:
    found = find_in(GAIN | check(-0.4), {"edges": change(-3.0), "dark": change(9.0, 0.93, 0.45)})
    assert found is not None
    assert found.evidence == "reward +2.10, check −0.40, edge density −60 %, dark pixels 45 % → 93 %"


@pytest.mark.parametrize("effect", [None, -0.2])
def test_a_diversity_that_fell_far_is_named_whatever_its_effect(effect: float | None) -> None:
    fallen = {DIVERSITY: change(-0.2) | {"effect": effect}}
    found = find_in(GAIN, fallen)
    assert found is not None and found.evidence == "reward +2.10, diversity −60 %"
    assert moved({DIVERSITY: change(-0.2, mean=0.08) | {"effect": effect}}) == []


def test_a_change_that_may_be_chance_is_not_named() -> None:
    uncertain = change(-3.0) | {"change_low": -0.2, "change_high": 0.1}
    assert moved({"edges": uncertain, "detail": change(-0.3)}) == []
    assert find_in(GAIN, {"edges": uncertain}) is None


def test_the_rule_finds_what_docs_experiments_reports() -> None:
    """Runs of `scenes` made to go wrong in four ways, and runs that go well: docs/experiments/exploitation.py."""
    rows = json.loads((REPOSITORY / "docs/experiments/exploitation.json").read_text())
    reported = [row for seed in ("3000", "3001", "3002") for row in rows[seed].values()]
    found: dict[tuple[bool, bool], int] = {}
    for row in reported:
        for has_check in (True, False):
            findings = [
                find_in(
                    {
                        name: value
                        for name, value in item["overall"].items()
                        if has_check or "check" not in name
                    },
                    item["images"],
                )
                for item in row["evaluations"].values()
            ]
            key = row["well"], has_check
            found[key] = found.get(key, 0) + any(findings)
    assert len(reported) == 24
    assert found == {(False, True): 12, (False, False): 9, (True, True): 0, (True, False): 0}
    well = [item["images"] for row in reported if row["well"] for item in row["evaluations"].values()]
    limited = [name for name in well[0] if name not in (DIVERSITY, DISTANCE)]
    assert round(max(abs(images[name]["effect"]) for images in well for name in limited), 1) == 0.8
    falls = [
        images[DIVERSITY]["mean"] / (images[DIVERSITY]["mean"] - images[DIVERSITY]["change"])
        for images in well
    ]
    assert round(min(falls), 2) == 0.75
