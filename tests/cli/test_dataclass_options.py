"""Options of a command from the fields of a dataclass."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest
import typer
from ppod_cli.app.dataclass_options import Without
from ppod_cli.app.errors import entry_point, runner
from ppod_cli.app.options import Config, command, new_commands

from ppod_data.support.options import option
from tests.support.command import call


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    batch_size: int = option(64, "Pairs in one step.", panel="Optimizer", metavar="N", min=1)
    learning_rate: float = option(
        0.1,
        "Step size.",
        panel="Optimizer",
        above=0,
        reason=": nothing would move",
        shown_default="by the model",
    )
    mode: Literal["fast", "exact"] = option("fast", "How.", panel="Compute")
    keep: bool = option(False, "Keep activations.")
    seed: int = option(0, "Seed of the order.", min=0)
    prompts: tuple[str, ...] | None = option(None, "Prompts.", is_prompt_file=True)
    patience: int = option(3, "Patience.")
    internal: int = 5


@dataclass(frozen=True, kw_only=True)
class Sampler:
    num_rounds: int = option(2, "Rounds.", name="rounds", max=9)
    seed: int = option(0, "Another seed.")


@pytest.fixture
def app() -> Callable[..., None]:
    """A command that prints what it was given."""
    commands = new_commands()

    @command(commands, examples=())
    def show(
        data: str,
        optimizer: Annotated[Optimizer, Without({"patience"})],
        sampler: Sampler,
        mode: Annotated[Literal["fast", "exact"], typer.Option(help="Own help.")] = "exact",
        config: Config = None,
    ) -> None:
        """Print what it was given."""
        print(json.dumps([data, asdict(optimizer), asdict(sampler), mode]))

    return entry_point(runner(commands, "show", out_of_memory=""))


def test_values_build_the_dataclasses(app: Callable[..., None], tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a cat\na dog\n")
    words = ("d", "--batch-size", 8, "--learning-rate", 0.5, "--keep", "--seed", 7, "--rounds", 3)
    data, optimizer, sampler, mode = json.loads(
        call(app, *words, "--prompts", tmp_path / "prompts.txt").stdout
    )
    assert (data, mode) == ("d", "exact")
    assert optimizer == {
        "batch_size": 8,
        "learning_rate": 0.5,
        "mode": "exact",
        "keep": True,
        "seed": 7,
        "prompts": ["a cat", "a dog"],
        "patience": 3,
        "internal": 5,
    }
    assert sampler == {"num_rounds": 3, "seed": 7}


def test_what_is_not_given_is_the_default_of_the_dataclass(app: Callable[..., None]) -> None:
    _, optimizer, sampler, _ = json.loads(call(app, "d").stdout)
    assert optimizer == asdict(Optimizer(mode="exact")) and sampler == asdict(Sampler())


def test_help_shows_panels_bounds_and_defaults(
    app: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    text = call(app, "--help").stdout
    assert "─ Optimizer ─" in text
    lines = {line.split()[1]: line for line in text.splitlines() if line.startswith("│ --")}
    assert {"--batch-size", "--rounds"} <= lines.keys()
    assert "N [x>=1]" in lines["--batch-size"] and "Pairs in one step. [default: 64]" in lines["--batch-size"]
    assert "(by the model)" in text and "Seed of the order." in text and "Own help." in text
    assert "Another seed." not in text and "patience" not in text and "internal" not in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--batch-size", 0), "Invalid value for '--batch-size': must be at least 1, not 0"),
        (("--rounds", 10), "Invalid value for '--rounds': must be at most 9, not 10"),
        (
            ("--learning-rate", 0),
            "Invalid value for '--learning-rate': must be above 0, not 0: nothing would move",
        ),
        (("--batch-size", "many"), "Invalid value for '--batch-size': must be a whole number, not many"),
    ],
)
def test_a_value_out_of_range_is_one_line(
    app: Callable[..., None], words: tuple[object, ...], message: str
) -> None:
    failed = call(app, "d", *words)
    assert failed.code == 2
    assert failed.one_error() == f"{message}: see show --help"


def test_keys_of_a_configuration_file_are_those_of_the_options(
    app: Callable[..., None], tmp_path: Path
) -> None:
    (tmp_path / "c.toml").write_text("batch-size = 9\nrounds = 4\nkeep = true")
    _, optimizer, sampler, _ = json.loads(call(app, "d", "--config", tmp_path / "c.toml").stdout)
    assert (optimizer["batch_size"], optimizer["keep"], sampler["num_rounds"]) == (9, True, 4)
    (tmp_path / "c.toml").write_text("patience = 9")
    assert "'patience' is no option" in call(app, "d", "--config", tmp_path / "c.toml").one_error()
