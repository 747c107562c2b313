"""An option that takes one value is refused when it is given twice, in every command."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from ppod_cli import gen
from ppod_cli.app.once import OnceCommand

from tests.cli.test_help import APPS, LEAVES
from tests.support.command import call

SINGLE = [
    (name, param)
    for name, command in LEAVES.items()
    for param in command.params
    if param.param_type_name == "option" and not param.multiple and param.name not in ("help", "debug")
]


def twice(name: str, param: Any) -> list[str]:
    spelling = param.opts[0]
    value = [] if param.is_flag else ["1"]
    return [*name.split()[1:], spelling, *value, spelling, *value]


def test_there_are_many_such_options() -> None:
    assert len(SINGLE) > 150
    assert all(isinstance(command, OnceCommand) for command in LEAVES.values())


@pytest.mark.parametrize(("name", "param"), SINGLE, ids=[f"{name} {p.name}" for name, p in SINGLE])
def test_a_second_value_is_refused_by_name(name: str, param: Any) -> None:
    result = call(APPS[name.split()[0]].app, *twice(name, param))
    assert result.code == 2
    longest = max(param.opts, key=len)
    assert result.one_error() == f"{longest} is given 2 times, and takes one value: give it once"


def test_both_spellings_of_a_flag_are_one_option() -> None:
    result = call(gen.app, "data", "--prompt", "a cat", "--safety-check", "--no-safety-check")
    assert "--safety-check is given 2 times" in result.one_error()


def test_options_of_many_values_are_repeated(tmp_path: Path) -> None:
    arguments = ["--prompt", "a cat", "--prompt", "a dog", "--dry-run", "--num-images-per-prompt", 2]
    result = call(gen.app, tmp_path / "data", *arguments)
    assert result.code == 0, result.stderr
    assert "4 images" in result.stdout


def test_an_option_of_the_file_and_one_of_the_command_line_are_not_twice(tmp_path: Path) -> None:
    config = tmp_path / "gen.toml"
    config.write_text('num-images-per-prompt = 3\nprompt = "a cat"\n')
    assert tomllib.loads(config.read_text())["num-images-per-prompt"] == 3
    result = call(gen.app, tmp_path / "data", "--config", config, "--num-images-per-prompt", 2, "--dry-run")
    assert result.code == 0, result.stderr
    assert "2 images" in result.stdout
