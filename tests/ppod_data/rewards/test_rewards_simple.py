"""Rewards without weights: JPEG sizes, functions of the user's, and what `--reward` understands."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ppod_data.errors import ConfigError
from ppod_data.rewards import BUILDERS, WITH_WEIGHTS, check_reward_name, load_reward
from ppod_data.rewards.jpeg import COMPRESSIBILITY, INCOMPRESSIBILITY
from tests.support.small_rewards import images


def test_jpeg_rewards_are_the_size_in_kb() -> None:
    for image in images():
        file = io.BytesIO()
        image.save(file, "JPEG", quality=95)
        assert INCOMPRESSIBILITY.score(["any"], [image]) == [len(file.getvalue()) / 1000]
        assert COMPRESSIBILITY.score(["other"], [image]) == [-len(file.getvalue()) / 1000]


def test_noise_compresses_worse_than_one_colour() -> None:
    noise = Image.fromarray(np.random.Generator(np.random.Philox(0)).integers(0, 256, (64, 64, 3), np.uint8))
    flat, rough = load_reward("jpeg-compressibility").score(["", ""], [Image.new("RGB", (64, 64)), noise])
    assert 0 > flat > rough
    assert "libjpeg" in load_reward("jpeg-incompressibility").revision


def test_a_function_is_a_reward_and_its_file_the_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    source = "def width(prompts, images):\n    return [image.width + len(p) for p, image in zip(prompts, images)]\n"
    (tmp_path / "one_of_mine.py").write_text(source)
    (tmp_path / "another_of_mine.py").write_text(source + "# edited\n")
    reward = load_reward("one_of_mine:width")
    assert reward.name == "width"
    assert reward.score(("a", "bc"), images(2)) == [65.0, 82.0]
    assert len(reward.revision) == 16
    assert load_reward("another_of_mine:width").revision != reward.revision


@pytest.mark.parametrize(
    ("reward", "reason"),
    [
        ("no_such_module:f", "cannot import no_such_module .*give the path of its file, FILE.py:f"),
        ("math:nothing", "math has no function nothing"),
        ("math:pi", "math has no function pi"),
        ("math:sqrt", "math has no source file"),
    ],
)
def test_what_is_no_function_is_refused(reward: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        load_reward(reward)


@pytest.mark.parametrize(
    "reward",
    [
        *BUILDERS,
        *(f"{name}:/a/folder" for name in WITH_WEIGHTS),
        "mine.rewards:score",
        "http://127.0.0.1:8000",
    ],
)
def test_what_can_name_a_reward_is_accepted_without_loading_it(reward: str) -> None:
    assert check_reward_name(reward) == reward


@pytest.mark.parametrize(
    ("reward", "reason"),
    [
        ("image-rewrad", "did you mean 'image-reward'"),
        ("scenes:folder", "scenes has no weights"),
        ("clip:", "give the folder of its weights after the colon"),
        ("a b:c", "unknown reward model"),
        ("ftp://host", "unknown reward model"),
        ("", "unknown reward model"),
    ],
)
def test_what_cannot_name_a_reward_is_refused(reward: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        check_reward_name(reward)
