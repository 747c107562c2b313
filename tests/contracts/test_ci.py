"""What CI runs: every test that is not slow, once."""

import itertools
import re
import shlex
import tomllib

import pytest
from _pytest.mark.expression import Expression

from tests.support.command import REPOSITORY

MAKEFILE = (REPOSITORY / "Makefile").read_text()
PYTEST = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]


def runs(target: str, marks: dict[str, bool]) -> bool:
    """Whether a target of the Makefile runs a test with these marks: by its own `-m`, or that of pyproject.toml."""
    [recipe] = re.findall(rf"^{target}:.*\n\t\$\(TESTS\)(.*)$", MAKEFILE, re.MULTILINE)
    words = [*PYTEST["addopts"], *shlex.split(recipe)]
    chosen = words[len(words) - words[::-1].index("-m")]
    return Expression.compile(chosen).evaluate(lambda name, **_: marks[name])


@pytest.mark.parametrize(("long", "slow"), itertools.product([False, True], repeat=2))
def test_every_test_that_is_not_slow_is_run_once(long: bool, slow: bool) -> None:
    script = (REPOSITORY / ".ci/run").read_text()
    targets = re.findall(r"^make (test.*)$", script, re.MULTILINE)
    assert targets == ["test", "test-long"]
    marks = {"long": long, "slow": slow}
    assert sum(runs(target, marks) for target in targets) == (not slow)
    assert runs("test-slow", marks)
