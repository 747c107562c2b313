"""The docs say what is so: links resolve, command lines parse, and what they name exists."""

import dataclasses
import importlib
import itertools
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.main
from ppod_cli.app.dataclass_options import build_settings
from ppod_cli.train.online import StageTraining

from ppod_data.rewards import BUILDERS, check_reward_name
from ppod_train.data.training_data import DataSource
from ppod_train.evaluation.metrics import Metrics
from ppod_train.library.training import refuse_unread_table
from ppod_train.objectives import OBJECTIVES
from ppod_train.online.settings import OnlineSettings
from ppod_train.settings import DEFAULT_RANK, TrainSettings
from ppod_train.step.metrics import StepMetrics

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
DECISIONS = ROOT / "docs/decisions"
RECORDS = sorted(DECISIONS.glob("[0-9]*.md"))
SECTIONS = ["Context", "Decision", "Consequences"]
ONE_SCREEN = 55  # lines of the README
COMMANDS = ("gen", "score", "pair", "train", "data")

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
LINK = re.compile(r"(?<!`)\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")


def page_name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def page(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def blocks(text: str, *languages: str) -> list[str]:
    """The fenced code blocks in one of these languages."""
    return [body for language, body in FENCE.findall(text) if language in languages]


def prose(text: str) -> str:
    """A page without code blocks and comments."""
    return COMMENT.sub("", FENCE.sub("", text))


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    titles = re.findall(r"^#+ (.*)$", FENCE.sub("", path.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_relative_links_resolve(path: Path) -> None:
    broken = []
    for target in LINK.findall(prose(path.read_text("utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name) if name else path
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


def linked_pages(path: Path) -> set[Path]:
    """Return the pages of this project that a page links to."""
    targets = {
        (path.parent / link.partition("#")[0]).resolve()
        for link in LINK.findall(prose(path.read_text("utf-8")))
    }
    return targets & set(PAGES)


def test_the_index_links_every_page() -> None:
    """The index of decisions links their records."""
    pages = {path for path in PAGES if path.is_relative_to(ROOT / "docs")} - set(RECORDS)
    assert pages - linked_pages(ROOT / "docs" / "README.md") == {ROOT / "docs" / "README.md"}


def test_every_page_is_reached_from_the_readme_in_two_steps() -> None:
    first = linked_pages(ROOT / "README.md")
    second = {target for path in first for target in linked_pages(path)}
    assert set(PAGES) - first - second - set(RECORDS) == {ROOT / "README.md"}


def test_the_readme_is_one_screen() -> None:
    assert len(page("README.md").splitlines()) <= ONE_SCREEN


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.name)
def test_a_decision_record_has_a_title_a_status_and_its_sections(path: Path) -> None:
    head, *sections = re.split(r"^\*\*(\w+)\.\*\*", path.read_text("utf-8"), flags=re.MULTILINE)
    match = re.fullmatch(r"# (.+)\n\n- Status: (.+)\n(?:- Date: \d{4}-\d\d-\d\d\n)?\n", head)
    assert match is not None, "expected a title, a status and an optional date"
    if match[2] not in ("accepted", "rejected"):
        superseded = re.fullmatch(r"superseded by \[(\d{4})\]\((\1-[\w-]+\.md)\)", match[2])
        assert superseded is not None, match[2]
        assert (path.parent / superseded[2]) in RECORDS
    assert sections[::2] in (SECTIONS, [*SECTIONS, "Alternatives"])


def test_the_index_of_decisions_lists_every_record_once() -> None:
    """With its title, and with the number of the record that superseded it."""
    entries = [
        line for line in (DECISIONS / "README.md").read_text("utf-8").splitlines() if line[:3] == "- ["
    ]
    expected = []
    for path in RECORDS:
        title, _, status = path.read_text("utf-8").splitlines()[:3]
        successor = re.search(r"superseded by \[(\d{4})\]", status)
        note = f" (superseded by {successor[1]})" if successor else ""
        expected.append(f"- [{path.name[:4]}]({path.name}) {title.removeprefix('# ')}{note}")
    assert sorted(entries) == expected
    assert [int(path.name[:4]) for path in RECORDS] == list(range(1, len(RECORDS) + 1))


def command_lines(text: str) -> list[list[str]]:
    """The words of every ppod-* command in a page's shell blocks, however it is launched."""
    found = []
    for block in blocks(text, "bash", "sh", "console"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            for i, word in enumerate(words):
                if re.fullmatch(r"ppod-(?:\w+)|ppod_cli\.\w+", word):
                    found.append([word.replace("ppod_cli.", "ppod-"), *words[i + 1 :]])
                    break
    return found


def parse(words: list[str]) -> Any:
    """The parsed context of a command line; nothing is run. Raises what the command itself would raise."""
    name, *arguments = words
    assert name.removeprefix("ppod-") in COMMANDS, f"there is no command {name}"
    module = importlib.import_module(f"ppod_cli.{name.removeprefix('ppod-')}")
    command = typer.main.get_command(module.commands)
    if hasattr(command, "commands"):
        sub_command = command.commands.get(arguments[0])
        assert sub_command is not None, f"{name} has no command {arguments[0]}"
        command, name, arguments = sub_command, f"{name} {arguments[0]}", arguments[1:]
    return command.make_context(name, arguments)


ALL_LINES = [(page_name(path), line) for path in PAGES for line in command_lines(path.read_text("utf-8"))]


def test_the_readme_shows_the_whole_pipeline() -> None:
    shown = [line[0] for name, line in ALL_LINES if name == "README.md"]
    assert {"ppod-gen", "ppod-score", "ppod-pair", "ppod-train"} <= set(shown)


@pytest.mark.parametrize(("name", "line"), ALL_LINES, ids=[f"{n}-{shlex.join(w)}" for n, w in ALL_LINES])
def test_command_lines_parse(name: str, line: list[str]) -> None:
    """With the commands' own parsers: names, types, ranges and choices of options, required arguments."""
    context = parse(line)
    rewards = context.params.get("reward") or []
    if line[0] in ("ppod-score", "ppod-train"):
        for reward in [rewards] if isinstance(rewards, str) else rewards:
            check_reward_name(reward)


@pytest.mark.parametrize(
    "arguments",
    ["data", "--out run", "data --out run --num-trian-steps 3", "data --out run --eval-every x"],
)
def test_a_wrong_command_line_is_noticed(arguments: str) -> None:
    with pytest.raises(typer.TyperException):
        parse(["ppod-train", "offline", *shlex.split(arguments)])


def exists(dotted: str) -> bool:
    """Whether a dotted name such as ppod_train.step.metrics.StepMetrics.loss can be reached."""
    parts = dotted.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            if part in getattr(found, "__dataclass_fields__", {}):
                return part == parts[-1]
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_functions_and_tests_that_are_named_exist(path: Path) -> None:
    missing = []
    for code in CODE.findall(prose(path.read_text("utf-8"))):
        if re.fullmatch(r"ppod_(?:data|train|cli)(?:\.\w+)+", code) and not exists(code):
            missing.append(code)
        if match := re.fullmatch(r"(tests/[\w/]+\.py)::(\w+)", code):
            file = ROOT / match[1]
            if not file.is_file() or f"\ndef {match[2]}(" not in file.read_text("utf-8"):
                missing.append(code)
        if re.fullmatch(r"(?:ppod_data|ppod_train|cli|tests|docs|benchmarks)/[\w./-]*", code):
            missing += [] if (ROOT / code).exists() else [code]
    assert missing == []


def test_the_paper_map_leads_to_functions_tests_and_objectives() -> None:
    codes = CODE.findall(page("docs/paper_map.md"))
    assert len([code for code in codes if "::" in code]) > 10


def table(text: str, heading: str) -> list[list[str]]:
    """The cells of every row of the table whose first heading is this."""
    lines = iter(text.splitlines())
    next(line for line in lines if line.startswith(f"| {heading} |"))
    rows = itertools.takewhile(lambda line: line.startswith("|"), itertools.islice(lines, 1, None))
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in rows]


def test_every_objective_has_a_row_with_its_formula_and_function() -> None:
    rows = {
        row[0].strip("`"): row
        for row in table(page("docs/paper_map.md").partition("## Objectives")[2], "name")
    }
    assert set(rows) == set(OBJECTIVES)
    for name, objective in OBJECTIVES.items():
        _, formula, paper, function, test = rows[name]
        assert formula and paper and test
        assert function == f"`{objective.loss.__module__}.{objective.loss.__name__}`"


def test_what_an_objective_reads_and_its_own_defaults_are_as_documented() -> None:
    found = {}
    for names, reads, defaults in table(page("docs/paper_map.md"), "objective"):
        own = dict(re.findall(r"`(\w+)` ([\w.-]+)", defaults))
        found |= {name: (set(CODE.findall(reads)), own) for name in CODE.findall(names)}
    assert found == {
        name: (set(one.reads), {key: as_written(value) for key, value in one.defaults.items()})
        for name, one in OBJECTIVES.items()
    }


def as_written(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


PAPERS = blocks(page("docs/paper_map.md"), "toml")


@pytest.mark.parametrize("block", PAPERS, ids=lambda block: block.split("--config ")[1].split(".toml")[0])
def test_the_settings_of_a_paper_are_accepted(block: str, tmp_path: Path) -> None:
    """By the command's own parser and checks; nothing is run."""
    (tmp_path / "paper.toml").write_text(block)
    words = shlex.split(block.splitlines()[0].removeprefix("# "))
    context = parse([str(tmp_path / "paper.toml") if word.endswith(".toml") else word for word in words])
    if "online" in words:
        settings = build_settings(StageTraining, context.params)
        dataclasses.replace(build_settings(OnlineSettings, context.params), train=settings).validate()
    else:
        settings = build_settings(TrainSettings, context.params)
        settings.validate()
        tables = {name: context.params[name] or "" for name in ("pairs", "scores")}
        refuse_unread_table(DataSource(roots=[], **tables), settings.objective)
    assert all(re.match(r"[\w-]+ = |# ppod-train ", line) for line in block.splitlines())
    assert f"--config {settings.objective}." in block


def test_every_paper_has_its_settings() -> None:
    named = {tomllib.loads(block).get("objective", "ppod") for block in PAPERS}
    assert named == {"ppod", "prdp", "d3po", "diffusion-dpo", "ddpo", "dpok"}


def test_the_paper_map_names_the_real_defaults() -> None:
    """`name` and a number after it is a default: of training, of sampling or of pairing."""
    tuned = {
        "learning_rate": 3e-3,
        "log_ratio_clip": 0.01,
    }  # on scenes: tests/ppod_train/run/test_model_defaults.py
    defaults: dict[str, Any] = dataclasses.asdict(TrainSettings()) | tuned | {"lora_rank": DEFAULT_RANK}
    commands = typer.main.get_command(importlib.import_module("ppod_cli.gen").commands)
    defaults |= {param.name: param.default for param in commands.params}
    named = re.findall(r"`(\w+)` (\d[\d.e-]*)", page("docs/paper_map.md").partition("leaves open")[2])
    assert len(named) > 8
    assert {name: float(number) for name, number in named} == {name: defaults[name] for name, _ in named}


def test_every_reward_has_its_row() -> None:
    rows = table(page("docs/rewards.md"), "name")
    assert set(BUILDERS) <= {name for row in rows for name in CODE.findall(row[0])}


@pytest.mark.parametrize("kind", [StepMetrics, Metrics], ids=lambda kind: kind.__name__)
def test_every_figure_is_explained(kind: Any) -> None:
    """Each field has a row of a table to itself, or with its interval."""
    rows = [line.split("|")[1] for line in page("docs/metrics.md").splitlines() if line.startswith("| `")]
    explained = {code for row in rows for code in CODE.findall(row)}
    assert {field.name for field in dataclasses.fields(kind)} - explained == set()


def test_the_python_example_reads_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ppod_data.pairs.rank import rank
    from ppod_data.scoring.score import score
    from tests.support.toy import make_dataset

    class Order:
        """Every image scores higher than the one before."""

        name, revision, given = "scenes", "1", 0

        def score(self, prompts: list[str], images: list[Any]) -> list[float]:
            self.given += len(images)
            return [float(self.given - len(images) + i) for i in range(len(images))]

    dataset = make_dataset(tmp_path / "data")
    score(dataset, Order(), name="scenes")
    rank(
        dataset,
        reward="scenes",
        strategy="random",
        num_pairs_per_prompt=None,
        min_margin=0.0,
        name="scenes",
        seed=0,
    )
    monkeypatch.chdir(tmp_path)
    example = next(iter(blocks(page("docs/howto/read-a-data-set.md"), "python")))
    values: dict[str, Any] = {}
    exec(example, values)
    assert values["samples"].num_rows == 6
    assert values["before"].shape == values["after"].shape == (4, 2, 3)
    assert values["chosen"].latents.shape[0] == 5
