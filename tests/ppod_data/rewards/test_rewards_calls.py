"""Calling a reward: what it gets are copies, what it gives is one number an image or refused in one line."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ppod_data.dataset.dataset import Dataset
from ppod_data.errors import ConfigError, PpodError, RewardError
from ppod_data.rewards import check_reward_name, load_reward
from ppod_data.rewards.each import Trial, score_each
from ppod_data.rewards.numbers import as_numbers
from ppod_data.rewards.weighted import WeightedReward
from ppod_data.scoring.score import score, score_all
from tests.support.toy import make_dataset


@dataclass
class Mine:
    """A reward model made of a function."""

    function: Callable[[list[str], list[Image.Image]], Any]
    name: str = "mine"
    revision: str = "1"
    calls: list[int] = field(default_factory=list)

    def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> Any:
        self.calls.append(len(images))
        return self.function(list(prompts), list(images))


@pytest.mark.parametrize(
    "values",
    [
        [1, 2.5],
        (1, 2.5),
        iter([1, 2.5]),
        np.array([1, 2.5], dtype=np.float16),
        np.array([[1], [2.5]]),
        torch.tensor([1, 2.5], requires_grad=True),
        torch.tensor([1, 2.5], dtype=torch.bfloat16),
        [torch.tensor(1.0), torch.tensor([2.5])],
        [np.float16(1), np.array(2.5)],
        [True, Decimal("2.5")],
    ],
    ids=lambda values: "iterator" if hasattr(values, "__next__") else repr(values),
)
def test_numbers_of_every_common_kind_are_taken(values: object) -> None:
    numbers = as_numbers("mine", values, 2)
    assert numbers == [1.0, 2.5] and all(type(number) is float for number in numbers)


def test_a_bare_number_is_that_of_a_single_image() -> None:
    assert as_numbers("mine", torch.tensor(2.0), 1) == as_numbers("mine", 2, 1) == [2.0]


@pytest.mark.parametrize(
    ("values", "what"),
    [
        (None, "a NoneType"),
        (1.0, "a float"),
        (torch.tensor(1.0), "a Tensor"),
        ("12", "a str"),
        ({"a": 1.0, "b": 2.0}, "a dict"),
        ({1.0, 2.0}, "a set"),
        ([1.0], "1 values"),
        ([1.0, 2.0, 3.0], "3 values"),
        (np.zeros((2, 3)), r"'\[0.0, 0.0, 0.0\]' \(a list\) among its values"),
        (["0.5", "0.7"], r"'0.5' \(a str\) among its values"),
        ([1j, 2j], r"'1j' \(a complex\) among its values"),
        (([1.0, 2.0], {}), "a tuple of list and dict"),
        ((torch.zeros(2), {}), "a tuple of list and dict"),
    ],
    ids=repr,
)
def test_anything_else_is_refused_by_what_it_is(values: object, what: str) -> None:
    with pytest.raises(RewardError, match=rf"^mine returned {what} for 2 images: it must return one number"):
        as_numbers("mine", values, 2)


def images_of(*values: int) -> list[Image.Image]:
    return [Image.new("RGB", (8, 8), (value, 0, 0)) for value in values]


def test_copies_are_given_at_every_attempt() -> None:
    """The batch spoils its images and its prompts, then raises: the single attempts still see them as they were."""

    def spoil(prompts: list[str], images: list[Image.Image]) -> list[float]:
        values = [float(np.asarray(image)[0, 0, 0]) for image in images]
        for image in images:
            image.paste((99, 99, 99), (0, 0, 8, 8))
        if len(images) > 1 or prompts == ["b"]:
            raise ValueError("no")
        return values

    class Rude(Mine):
        def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> Any:
            assert isinstance(prompts, list) and isinstance(images, list)
            kept = list(prompts)
            prompts[:] = ["spoilt"] * len(prompts)
            return spoil(kept, images)

    prompts, images = ["a", "b", "c"], images_of(1, 2, 3)
    assert score_each(Rude(spoil), prompts, images) == [1.0, "ValueError: no", 3.0]
    assert prompts == ["a", "b", "c"]
    assert [image.getpixel((0, 0)) for image in images] == [(1, 0, 0), (2, 0, 0), (3, 0, 0)]


def test_scores_do_not_depend_on_the_rewards_beside_them(tmp_path: Path) -> None:
    def shrink(prompts: list[str], images: list[Image.Image]) -> list[float]:
        for image in images:
            image.thumbnail((1, 1))
        return [1.0] * len(images)

    def size(prompts: list[str], images: list[Image.Image]) -> list[float]:
        return [float(image.width) for image in images]

    dataset = make_dataset(tmp_path / "data")
    score_all(dataset, {"shrink": Mine(shrink), "size": Mine(size, name="size")})
    score(dataset, Mine(size, name="size"), name="alone")
    assert dataset.scores("size")["score"].to_pylist() == dataset.scores("alone")["score"].to_pylist()
    assert dataset.scores("size")["score"][0].as_py() > 1


def test_the_parts_of_a_weighted_reward_get_copies_each() -> None:
    def shrink(prompts: list[str], images: list[Image.Image]) -> list[float]:
        for image in images:
            image.thumbnail((1, 1))
        return [1.0] * len(images)

    def size(prompts: list[str], images: list[Image.Image]) -> list[float | None]:
        return [
            None if prompt == "b" else float(image.width)
            for prompt, image in zip(prompts, images, strict=True)
        ]

    both = WeightedReward("both", ((10.0, Mine(shrink)), (1.0, Mine(size))))
    assert both.score(["a", "b"], images_of(1, 2)) == [18.0, None]


def broken(prompts: list[str], images: list[Image.Image]) -> list[float]:
    raise KeyError("weights")


def test_a_reward_that_always_fails_stops_after_its_first_batch(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data", num_images_per_prompt=20, images_per_shard=10)
    mine = Mine(broken)
    with pytest.raises(
        RewardError, match=r"mine could score none of the first 10 images \(KeyError: 'weights'\)"
    ):
        score(dataset, mine, name="mine", batch_size=10)
    assert mine.calls == [10] + [1] * 10
    assert not (dataset.root / "scores").exists()


def test_a_wrong_result_stops_after_one_call(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data")
    mine = Mine(lambda prompts, images: ([1.0] * len(images), {}))
    with pytest.raises(RewardError, match="mine returned a tuple of list and dict for 4 images"):
        score(dataset, mine, name="mine")
    assert mine.calls == [4]


def test_one_bad_first_image_does_not_stop_a_reward_that_sees_one_at_a_time() -> None:
    def odd(prompts: list[str], images: list[Image.Image]) -> list[float]:
        return [float("nan") if prompts == ["0"] else 1.0]

    trial, mine = Trial(), Mine(odd)
    results = [score_each(mine, [str(row)], images_of(row), trial)[0] for row in range(20)]
    assert results == ["the score is nan"] + [1.0] * 19


def test_a_reward_that_has_scored_before_is_not_stopped(tmp_path: Path) -> None:
    trial = Trial()
    assert score_each(Mine(lambda prompts, images: [1.0]), ["a"], images_of(1), trial) == [1.0]
    assert len(score_each(Mine(broken), ["a"] * 20, images_of(*range(20)), trial)) == 20


def test_declined_images_do_not_stop_a_reward() -> None:
    """None, and ppod's own errors, are about the image or its prompt."""

    def unknown(prompts: list[str], images: list[Image.Image]) -> list[float]:
        raise PpodError("a prompt that it cannot read")

    trial = Trial()
    for reward in (Mine(lambda prompts, images: [None] * len(images)), Mine(unknown)):
        assert len(score_each(reward, ["a"] * 20, images_of(*range(20)), trial)) == 20


REDNESS = """
import neighbour
def redness(prompts, images):
    return [neighbour.SCALE * image.getpixel((0, 0))[0] for image in images]
"""


def test_a_function_is_found_by_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "with space"
    folder.mkdir()
    (folder / "my_red_rewards.py").write_text(REDNESS)
    (folder / "neighbour.py").write_text("SCALE = 2")
    for path in (f"{folder}/my_red_rewards.py", "./with space/my_red_rewards.py"):
        monkeypatch.chdir(tmp_path)
        reward = load_reward(f"{path}:redness")
        assert (reward.name, len(reward.revision)) == ("redness", 16)
        assert list(reward.score(["a"], images_of(7))) == [14.0]
    monkeypatch.chdir(folder)
    assert load_reward("my_red_rewards:redness").revision == reward.revision


@pytest.mark.parametrize(
    ("reward", "reason"),
    [
        ("redness", r"'redness': known ones are .*\(FILE.py:redness\)"),
        ("mine.py", r"\(mine.py:FUNCTION\)"),
        ("mine.py:blueness", "mine.py has no function blueness: it has redness"),
        ("nowhere.py:redness", "there is no file nowhere.py in .*: give its path"),
        ("nowhere:redness", "cannot import nowhere .*: give the path of its file, FILE.py:redness"),
        ("broken.py:redness", "cannot import broken.py .ZeroDivisionError"),
    ],
)
def test_errors_about_functions_say_what_to_give(
    reward: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("def redness(prompts, images): return [1.0]")
    (tmp_path / "broken.py").write_text("1 / 0")
    with pytest.raises(ConfigError, match=reason):
        load_reward(reward)


@pytest.mark.parametrize(
    ("typed", "meant"), [("scene", "scenes"), ("clpi", "clip"), ("imagereward", "image-reward")]
)
def test_a_slip_is_still_corrected(typed: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"did you mean '{meant}'"):
        check_reward_name(typed)


def stray(dataset: Dataset, table: str) -> list[Path]:
    """Files beside the parts of a table that are no parts of it."""
    folder = Path(str(dataset.root)) / "scores" / table
    names = [
        "000000 (copy).parquet",
        "000000 (1).parquet",
        "0000000.parquet",
        "000099.parquet",
        "._000000.parquet",
    ]
    for name in names:
        (folder / name).write_bytes((folder / "000000.parquet").read_bytes())
    return [folder / name for name in names]


def test_only_exact_part_names_are_read(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data")
    mine = Mine(lambda prompts, images: [float(row) for row in range(len(images))])
    before = score(dataset, mine, name="mine")
    files = stray(dataset, "mine")
    after = score(dataset, mine, name="mine")
    assert after.num_scores == before.num_scores == 6 == dataset.scores("mine").num_rows
    assert dataset.score_parts("mine") == [0, 1]
    assert all(path.exists() for path in files)


def test_a_table_of_two_scorers_is_refused(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data")
    for name in ("mine", "other"):
        score(dataset, Mine(lambda prompts, images: [1.0] * len(images), name=name), name=name)
    folder = Path(str(dataset.root)) / "scores"
    (folder / "mine" / "000001.parquet").write_bytes((folder / "other" / "000001.parquet").read_bytes())
    with pytest.raises(ConfigError, match="scores/mine mixes parts from mine 1 and other 1: remove"):
        dataset.scores("mine")
