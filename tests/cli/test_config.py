"""`--config FILE.toml`: the options' own names, explicit options win, mistakes are named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from ppod_cli import gen
from ppod_cli.app.errors import entry_point, runner
from ppod_cli.app.options import Json, command, new_commands
from ppod_cli.app.output import Outcome

from tests.support.command import Result, call


@pytest.fixture
def app() -> Callable[..., None]:
    """A command that prints what it was given."""
    commands = new_commands()

    @command(commands, examples=())
    def show(
        dataset: str,
        num_steps: Annotated[int, typer.Option(min=1, help="Steps.")] = 20,
        scale: Annotated[float | None, typer.Option(help="Scale.")] = None,
        prompt: Annotated[list[str] | None, typer.Option(help="Prompts.")] = None,
        as_name: Annotated[str | None, typer.Option("--as", help="Name.")] = None,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Dry.")] = False,
        as_json: Json = False,
    ) -> Outcome:
        """Print what it was given."""
        given = [dataset, num_steps, scale, prompt, as_name, dry_run, as_json]
        return Outcome({"given": given}, [json.dumps({"given": given})])

    return entry_point(runner(commands, "show", out_of_memory=""))


def given(app: Callable[..., None], tmp_path: Path, toml: str | bytes, *arguments: str) -> Result:
    path = tmp_path / "options.toml"
    path.write_bytes(toml if isinstance(toml, bytes) else toml.encode())
    return call(app, *arguments, "--config", path)


def values(result: Result) -> list[Any]:
    """Return the values that the command was called with."""
    found: list[Any] = json.loads(result.stdout)["given"]
    return found


def test_names_take_dashes_or_underscores(app: Callable[..., None], tmp_path: Path) -> None:
    toml = (
        'num-steps = 7\nscale = 2\nprompt = ["a", "b"]\nas = "x"\ndry_run = true\njson = true\ndataset = "d"'
    )
    assert values(given(app, tmp_path, toml)) == ["d", 7, 2.0, ["a", "b"], "x", True, True]


def test_explicit_options_win(app: Callable[..., None], tmp_path: Path) -> None:
    toml = 'num_steps = 7\nprompt = ["a", "b"]\ndataset = "d"'
    shown = given(app, tmp_path, toml, "e", "--num-steps", "8", "--prompt", "c")
    assert values(shown) == ["e", 8, None, ["c"], None, False, False]


def test_one_prompt_needs_no_list(app: Callable[..., None], tmp_path: Path) -> None:
    assert values(given(app, tmp_path, 'prompt = "a cat"', "d"))[3] == ["a cat"]


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("num_step = 7", "'num_step' is no option of show: did you mean 'num-steps'? see its --help"),
        ("xyzzy = 7", "'xyzzy' is no option of show: see its --help"),
        ('config = "other.toml"', "'config' is no option of show"),
        ("debug = true", "'debug' is no option of show"),
        ("num_steps = 7\nnum-steps = 8", "'num-steps' is given twice"),
        ("num_steps = true", "'num_steps' wants a value, not true or false"),
        ("dry_run = 1", "'dry_run' wants true or false"),
        ("num_steps = [1, 2]", "'num_steps' takes one value, not a list"),
        (
            "[show]\nnum_steps = 1",
            "[show] is no command: a recipe has tables [gen], [score], [rank], [offline], [online], [eval]",
        ),
        ("num_steps = 1\n[gen]\nseed = 1", "'num_steps' stands outside of a table"),
        ("[gen]\nseed = 1", "has no table [show]: it is a recipe for gen"),
        ("num_steps = 0", "Invalid value for '--num-steps': must be at least 1, not 0"),
        ('num_steps = "many"', "Invalid value for '--num-steps': must be a whole number, not many"),
        ("num_steps = ", "is not valid TOML"),
        ("# Größe".encode("latin-1"), "is not UTF-8 text: save it as UTF-8"),
    ],
)
def test_mistakes_are_one_line(
    app: Callable[..., None], tmp_path: Path, toml: str | bytes, message: str
) -> None:
    failed = given(app, tmp_path, toml, "d")
    assert failed.code == 2
    assert message in failed.one_error()


def test_a_missing_file_is_named(app: Callable[..., None], tmp_path: Path) -> None:
    failed = call(app, "d", "--config", tmp_path / "no.toml")
    assert failed.code == 2
    assert (
        failed.one_error()
        == f"cannot read the configuration file {tmp_path / 'no.toml'}: No such file or directory"
    )


def test_every_command_reads_one(tmp_path: Path) -> None:
    from ppod_cli import data, gen, pair, score, train

    path = tmp_path / "wrong.toml"
    path.write_text("frobnicate = 1")
    for app, words in (
        (gen.app, ["d"]),
        (score.app, ["d"]),
        (pair.app, ["rank", "d"]),
        (data.app, ["info", "d"]),
        (data.app, ["log-probs", "d", "--name", "n"]),
        (train.app, ["offline", "d", "--out", "o"]),
        (train.app, ["online", "--out", "o"]),
        (train.app, ["eval", "--out", "o"]),
        (train.app, ["report", "r"]),
    ):
        assert "'frobnicate' is no option of" in call(app, *words, "--config", path).one_error()


def test_a_command_reads_its_own_table_of_a_recipe(tmp_path: Path) -> None:
    """And names what is wrong in it as in a file of its own."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[gen]\nprompt = "a cat"\nnum_images_per_prompt = 3\n[offline]\nlora_rank = 2\n')
    shown = call(gen.app, tmp_path / "data", "--dry-run", "--json", "--config", recipe)
    assert json.loads(shown.stdout)["num_samples"] == 3
    recipe.write_text("[gen]\nlora_rank = 2\n")
    assert "'lora_rank' is no option of ppod-gen" in call(gen.app, "d", "--config", recipe).one_error()
    recipe.write_text("[gen.chain]\nseed = 2\n")
    assert "[gen.chain] is a table: write options only" in call(gen.app, "d", "--config", recipe).one_error()


def test_a_byte_order_mark_is_no_part_of_the_file(app: Callable[..., None], tmp_path: Path) -> None:
    assert values(given(app, tmp_path, b"\xef\xbb\xbfnum_steps = 7\n", "d"))[1] == 7
