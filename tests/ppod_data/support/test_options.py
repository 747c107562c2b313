"""Checks that are derived from the metadata of a dataclass's fields."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from ppod_data.errors import ConfigError
from ppod_data.support.options import check_options, option, options_of, same_option


@dataclass(frozen=True, kw_only=True)
class Settings:
    count: int = option(4, "A count.", min=1)
    rate: float | None = option(None, "A rate.", above=0)
    share: float = option(0.0, "A share.", min=0, below=1)
    clip: float = option(1.0, "A clip.", above=0, may_be_infinite=True)
    mode: Literal["fast", "exact"] = option("fast", "A mode.")
    plain: int = 7


@dataclass(frozen=True, kw_only=True)
class Others:
    count: int = same_option(Settings, "count", help="Another count.")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"count": 0}, "count must be at least 1, not 0"),
        ({"count": 1.5}, "count must be a whole number, not 1.5"),
        ({"count": True}, "count must be a whole number, not True"),
        ({"rate": 0.0}, "rate must be above 0, not 0.0"),
        ({"rate": "1"}, "rate must be a number, not '1'"),
        ({"rate": math.nan}, "rate must be above 0, not nan"),
        ({"rate": math.inf}, "rate must be finite, not inf"),
        ({"share": 1.0}, "share must be at least 0 and below 1, not 1.0"),
        ({"mode": "slow"}, "mode slow is unknown: fast, exact are known"),
    ],
)
def test_a_value_that_breaks_its_rule_is_named_with_the_rule(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check_options(Settings(**given))
    assert str(refused.value) == message


def test_values_within_their_bounds_pass() -> None:
    check_options(Settings())
    check_options(Settings(count=1, rate=1, share=0.5, clip=math.inf, mode="exact", plain=-1))


def test_a_field_without_metadata_has_no_option() -> None:
    assert list(options_of(Settings)) == ["count", "rate", "share", "clip", "mode"]


def test_a_shared_option_keeps_default_and_bounds_under_its_own_help() -> None:
    assert Others().count == 4
    assert options_of(Others)["count"].help == "Another count."
    with pytest.raises(ConfigError, match="count must be at least 1"):
        check_options(Others(count=0))
