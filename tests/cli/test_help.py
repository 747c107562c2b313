"""`--help`: quick, complete, with examples that the command understands."""

import dataclasses
import inspect
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from ppod_cli import gen, score
from ppod_cli.data import main as data
from ppod_cli.pair import main as pair
from ppod_cli.train import main as train
from typer.main import get_command

import ppod_data
from tests.support.command import REPOSITORY, call, run

APPS = {
    "ppod-gen": gen,
    "ppod-score": score,
    "ppod-pair": pair,
    "ppod-train": train,
    "ppod-data": data,
}
HEAVY = {
    "torch", "numpy", "pyarrow", "diffusers", "transformers", "datasets", "webdataset", "accelerate", "peft", "PIL",
    "safetensors", "pandas", "ray",
}  # fmt: skip


def leaves() -> Iterator[tuple[str, Any]]:
    """Every command that does something, by what a user types."""
    for name, module in APPS.items():
        root: Any = get_command(module.commands)
        if not hasattr(root, "commands"):
            yield name, root
            continue
        for sub, one in root.commands.items():
            yield f"{name} {sub}", one


LEAVES = dict(leaves())


def test_every_command_of_this_stage_is_there() -> None:
    assert list(LEAVES) == [
        "ppod-gen",
        "ppod-score",
        "ppod-pair rank",
        "ppod-pair label",
        "ppod-pair judge",
        "ppod-pair import",
        "ppod-pair agreement",
        "ppod-pair combine",
        "ppod-pair export",
        "ppod-train offline",
        "ppod-train online",
        "ppod-train eval",
        "ppod-train export",
        "ppod-train report",
        "ppod-data info",
        "ppod-data card",
        "ppod-data export",
        "ppod-data merge",
        "ppod-data push",
        "ppod-data pull",
        "ppod-data log-probs",
        "ppod-data seal",
        "ppod-data verify",
        "ppod-data exclude",
    ]


@pytest.mark.parametrize("module", [module.__name__.split(".")[1] for module in APPS.values()])
def test_help_imports_nothing_heavy(module: str, tmp_path: Path) -> None:
    program = (
        f"import sys; from ppod_cli.{module} import app\n"
        "try: app(['--help'])\n"
        f"except SystemExit as end: print(end.code, sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'cli'}", "PATH": "/usr/bin:/bin"},
    )
    assert done.stderr == "0 []\n"
    assert "Usage:" in done.stdout


@pytest.mark.parametrize("command", LEAVES)
def test_every_option_is_documented(command: str) -> None:
    for param in LEAVES[command].params:
        assert param.help, f"{command} {param.name} has no help"
    assert len(LEAVES[command].help) > 40


@pytest.mark.parametrize("command", LEAVES)
def test_every_command_takes_config_json_and_debug(command: str) -> None:
    options = {option for param in LEAVES[command].params for option in param.opts}
    assert {"--config", "--json", "--debug"} <= options


def example_lines(epilog: str) -> list[str]:
    heading, *lines = epilog.split("\n")
    assert heading == "Examples:"
    assert max(map(len, lines)) <= 78, "a longer line is broken by an 80-column terminal"
    return "\n".join(lines).replace("\\\n", " ").split("\n")


@pytest.mark.parametrize("command", LEAVES)
def test_examples_are_understood(command: str) -> None:
    for line in example_lines(LEAVES[command].epilog):
        words = shlex.split(line)
        if words[0] == "torchrun":
            place = words.index("-m")
            words = [f"ppod-{words[place + 1].removeprefix('ppod_cli.')}", *words[place + 2 :]]
        names = command.split()
        assert words[: len(names)] == names
        LEAVES[command].make_context(command, words[len(names) :])  # raises for what it does not understand


@pytest.mark.parametrize("name", ["ppod-pair", "ppod-train", "ppod-data"])
def test_examples_of_a_group_are_its_commands_own(name: str) -> None:
    own = [
        line
        for command, leaf in LEAVES.items()
        if command.startswith(name)
        for line in example_lines(leaf.epilog)
    ]
    for line in example_lines(get_command(APPS[name].commands).epilog or ""):
        assert line in own


@pytest.mark.parametrize("module", APPS.values())
def test_help_is_shown_in_this_process_and_ends_well(module: Any) -> None:
    shown = call(module.app, "--help")
    assert (shown.code, shown.stderr) == (0, "")
    assert "Examples:" in shown.stdout


@pytest.mark.parametrize("name", APPS)
def test_short_help_is_the_help(name: str) -> None:
    assert call(APPS[name].app, "-h").stdout == call(APPS[name].app, "--help").stdout
    for command in (command for command in LEAVES if command.startswith(f"{name} ")):
        words = command.split()[1:]
        assert call(APPS[name].app, *words, "-h").stdout == call(APPS[name].app, *words, "--help").stdout


@pytest.mark.parametrize("name", APPS)
def test_version_is_the_package_s(name: str) -> None:
    shown = call(APPS[name].app, "--version")
    assert (shown.code, shown.stdout, shown.stderr) == (0, f"ppod {ppod_data.__version__}\n", "")
    assert ppod_data.__version__ == distribution("ppod").version


@pytest.mark.parametrize("command", LEAVES)
def test_a_flag_shows_no_value(command: str) -> None:
    name, *sub = command.split()
    assert "<bool>" not in call(APPS[name].app, *sub, "--help").stdout
    assert "<bool>" not in call(APPS[name].app, "--help").stdout


@pytest.mark.parametrize(
    ("module", "words", "offered"),
    [("train", "ppod-train off", "offline"), ("gen", "ppod-gen data --guid", "--guidance-scale")],
)
def test_a_shell_completes(module: str, words: str, offered: str, tmp_path: Path) -> None:
    name = words.split()[0]
    program = f"from ppod_cli.{module} import app; app()"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={
            "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'cli'}",
            f"_{name.replace('-', '_').upper()}_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split()) - 1),
        },
    )
    assert offered in done.stdout.split(), done.stderr


def test_modules_run_under_python_m(tmp_path: Path) -> None:
    assert "Usage: ppod-gen" in run("gen", "--help", cwd=tmp_path).stdout


def defaults(function: Any) -> dict[str, Any]:
    return {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}


def test_defaults_of_options_are_those_of_the_library() -> None:
    from ppod_data.generation.build_spec import build_spec
    from ppod_data.pairs.rank import rank
    from ppod_data.scoring.score import score as score_dataset

    for function, library in ((gen.gen, build_spec), (pair.rank, rank), (score.score, score_dataset)):
        options = defaults(function)
        for name, value in defaults(library).items():
            if name in options and value is not inspect.Parameter.empty and name != "device":
                assert options[name] == value, name


def test_every_training_setting_is_an_option() -> None:
    """Of `offline` all, of `online` those that a stage reads and that no option of sampling shadows."""
    from ppod_data.support.options import options_of
    from ppod_train.evaluation.settings import EvalSettings
    from ppod_train.online.settings import OnlineSettings
    from ppod_train.settings import TrainSettings

    def names_of(command: str) -> set[str]:
        return {param.name for param in LEAVES[f"ppod-train {command}"].params}

    assert options_of(EvalSettings).keys() <= names_of("eval")
    every = [field.name for field in dataclasses.fields(TrainSettings)]
    assert list(options_of(TrainSettings)) == every
    assert set(every) <= names_of("offline")
    online = names_of("online")
    assert set(every) - online == {"eval_every", "patience"}
    names = {option.name or name for name, option in options_of(OnlineSettings).items()}
    assert names <= online
    assert names == {"stages"} | {field.name for field in dataclasses.fields(OnlineSettings)} - {
        "num_stages",
        "train",
    }


def test_every_objective_can_be_chosen() -> None:
    from ppod_train.objectives import OBJECTIVES
    from ppod_train.settings import TrainSettings

    assert get_args(get_type_hints(TrainSettings)["objective"]) == tuple(OBJECTIVES)


@pytest.mark.parametrize("command", LEAVES)
def test_no_option_name_is_cut_on_a_narrow_terminal(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    name, *sub = command.split()
    text = call(APPS[name].app, *sub, "--help").stdout
    options = [param.opts[0] for param in LEAVES[command].params if param.opts[0].startswith("--")]
    assert [option for option in options if option not in text] == []


def test_brackets_in_help_are_shown() -> None:
    assert "ppod[ray]" in "".join(call(gen.app, "--help").stdout.replace("│", "").split())


def test_a_group_alone_prints_its_help() -> None:
    for name in ("ppod-pair", "ppod-train", "ppod-data"):
        done = call(APPS[name].app)
        assert (done.code, done.stderr) == (0, "") and f"Usage: {name}" in done.stdout


def test_an_unknown_option_names_the_help_that_lists_the_options() -> None:
    failed = call(train.app, "offline", "d", "--out", "r", "--patiens", 3)
    assert failed.one_error().endswith("see ppod-train offline --help")
