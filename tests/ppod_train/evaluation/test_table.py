"""The table of an evaluation fits every terminal, cuts no number, and has one precision a column."""

import io
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from ppod_train.evaluation.metrics import EvalResult, PromptMeasurement, Scorer, summarise
from ppod_train.evaluation.settings import EvalSettings
from ppod_train.evaluation.table import EvalTable

LONG = "an oil painting of a very long prompt, " * 4 + "with [bold]markup[/bold] and a new\nline"


def result(
    rewards: dict[str, Sequence[float]], before: EvalResult | None = None, **columns: Any
) -> EvalResult:
    """An evaluation of these rewards by prompt."""
    measurements = {
        prompt: PromptMeasurement(rewards=np.array(values, np.float64), **columns)
        for prompt, values in rewards.items()
    }
    overall, prompts = summarise(measurements, before.measurements if before else None)
    return EvalResult(
        model="m",
        adapter=None,
        policy_fingerprint="0",
        settings=EvalSettings(prompts=tuple(rewards)),
        scorer=Scorer(name="judge", revision="1"),
        check_scorer=None,
        overall=overall,
        prompts=prompts,
        measurements=measurements,
    )


def case(name: str) -> tuple[EvalResult, EvalResult | None]:
    rng = np.random.default_rng(0)
    scale, offset = {
        "small": (1e-3, 0.27),
        "large": (3e4, -123456.0),
        "usual": (1.0, -3.0),
        "alone": (1.0, 20.0),
    }[name]
    prompts = ("a cat", LONG, "two dogs <b>&</b>")
    old = result({prompt: offset + scale * rng.normal(size=8) for prompt in prompts}, diversity=0.2271)
    if name == "alone":
        return old, None
    columns = {"correct": np.arange(8) % 2 == 0, "check_rewards": rng.normal(size=8), "diversity": 0.2274}
    new = {prompt: item.rewards + scale * rng.normal(size=8) for prompt, item in old.measurements.items()}
    return result(new, old, **(columns if name == "usual" else {})), old


def printed(table: EvalTable, width: int) -> str:
    file = io.StringIO()
    Console(width=width, file=file, color_system=None).print(table)
    return file.getvalue()


def numbers(text: str) -> list[str]:
    return sorted(re.findall(r"[+−]?\d[\d.]*(?:e−?\d+)?", text))


@pytest.mark.parametrize("name", ["usual", "small", "large", "alone"])
def test_every_width_shows_every_number_whole(name: str) -> None:
    table = EvalTable.of(*case(name))
    whole = numbers(printed(table, 400))
    assert len(whole) > 10
    for width in (*range(40, 131), 200):
        text = printed(table, width)
        assert max(map(len, text.splitlines())) <= width
        assert numbers(text) == whole
        words = " ".join(text.split())
        assert "all prompts" in words and "two dogs <b>&</b>" in words and "[bold]markup[/bold]" in words


def test_columns_that_hold_nothing_are_left_out() -> None:
    text = printed(EvalTable.of(*case("small")), 100)
    assert "correct" not in text and "check" not in text and "wins" in text
    assert "correct" in printed(EvalTable.of(*case("usual")), 100)


def test_a_column_has_as_many_digits_everywhere() -> None:
    for name in ("usual", "small", "large"):
        text = printed(EvalTable.of(*case(name)), 200)
        cells = re.findall(r"([+−]?[\d.]+) \(([+−]?[\d.]+)…([+−]?[\d.]+)\)", text)
        assert len({len(number.partition(".")[2]) for cell in cells for number in cell}) == 1
        assert all(low != high for _, low, high in cells)


def test_images_without_a_score_are_counted_in_the_title() -> None:
    text = printed(EvalTable.of(result({"a": [1.0, float("nan"), 2.0]})), 80)
    assert "reward judge, 3 images, 1 without a score" in " ".join(text.split())
    assert "(" not in text  # two scores have no interval
