"""Sizes of files and functions. Every exception has a ceiling and a reason, and goes when it is no longer needed."""

import ast
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PACKAGES = ("ppod_data", "ppod_train", "cli/ppod_cli")
FILE_LINES, FUNCTION_LINES, PARAMETERS = 300, 60, 8

LONG_FILES = {
    "ppod_data/annotate/session.py": (350, "one state machine for questions and answers"),
    "ppod_data/dataset/dataset.py": (420, "the methods of one public class, with their docstrings"),
    "ppod_data/diffusion/models/model_folder.py": (400, "refusals of model folders, each with its message"),
    "ppod_data/format/prompt_files.py": (400, "six file formats and their messages"),
    "ppod_data/format/shards.py": (350, "writing and repairing the two files of a shard"),
    "ppod_data/format/spec.py": (400, "documentation and bounds of every field of the spec"),
    "ppod_data/format/tables.py": (400, "the schemas of all tables"),
    "ppod_data/inspect/judge.py": (350, "recovery of a reward from tables of every age"),
    "ppod_data/inspect/viewer.py": (350, "the sections of one page"),
    "ppod_data/integrity/verify.py": (450, "the checks of all parts of a data set"),
    "ppod_data/labels/importing.py": (400, "errors for labels that match no sample"),
    "ppod_data/pairs/rank.py": (350, "all pairing strategies"),
    "ppod_data/publish/transfer.py": (350, "push and pull share plan, copy and check"),
    "ppod_data/scoring/score.py": (350, "writing scores shard by shard, with retries"),
    "ppod_data/storage/files.py": (400, "atomic writes, local and in object stores"),
    "ppod_data/storage/object_store.py": (450, "one path class with pathlib's methods"),
    "ppod_train/evaluation/evaluate.py": (350, "sampling, scoring and resuming of one evaluation"),
    "ppod_train/settings.py": (400, "every training option, with its help"),
}
LONG_FUNCTIONS = {
    "ppod_data/annotate/app.py:label_app": (80, "the routes of a small web application"),
    "ppod_data/generation/build_spec.py:build_spec": (90, "every generation option, documented"),
    "ppod_data/generation/log_probs.py:compute_log_probs": (70, "documentation of a public function"),
    "ppod_data/inspect/viewer.py:_scores": (70, "one section of a page"),
    "ppod_data/integrity/verify.py:verify": (70, "every check, in order"),
    "ppod_data/labels/importing.py:import_labels": (80, "documentation of a public function"),
    "ppod_data/pairs/rank.py:rank": (80, "documentation of a public function"),
    "ppod_data/publish/hub.py:pull_from_hub": (80, "download, check and rename in one order"),
    "ppod_data/scoring/score.py:score_all": (80, "documentation of a public function"),
    "ppod_train/data/training_data.py:open_training_data": (100, "joins of all tables of training data"),
    "ppod_train/evaluation/evaluate.py:evaluate": (80, "documentation of a public function"),
    "ppod_train/library/comparing.py:compare": (70, "documentation of a public function"),
    "ppod_train/library/online.py:train_online": (80, "documentation of a public function"),
    "ppod_train/run/compare.py:run_evaluation": (80, "documentation of a public function"),
    "ppod_train/run/prepare.py:prepare": (120, "every check of a start, before anything is written"),
    "ppod_train/run/train.py:train_offline": (80, "documentation of a public function"),
}
MANY_PARAMETERS = {
    "ppod_train/step/bounded_pass.py:by_trajectory_gradient": (
        9,
        "a loss by regions, its step weights and its scale",
    ),
    "ppod_data/labels/importing.py:import_labels": (9, "options of a command"),
    "ppod_data/scenes/training/fit_unet.py:fit_unet": (10, "hyperparameters of one training script"),
    "ppod_data/scoring/score.py:score_all": (10, "options of a command"),
    "ppod_train/step/metrics.py:step_metrics": (9, "figures of one update beside its log-ratios"),
    "ppod_train/run/train.py:train_offline": (9, "options of a command"),
}


def modules() -> Iterator[tuple[str, str]]:
    """Yield the name and the text of every module."""
    for package in PACKAGES:
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            yield path.relative_to(REPOSITORY).as_posix(), path.read_text(encoding="utf-8")


def functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    """Yield every function with its name, `module.py:function`."""
    for module, text in modules():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                yield f"{module}:{node.name}", node


def length(name: str, function: ast.FunctionDef) -> int:
    """Count the lines of a function, and for commands those of the body: the signature is the list of options."""
    first = function.lineno
    if name.startswith("cli/"):
        body = function.body[1:] if ast.get_docstring(function) is not None else function.body
        first = body[0].lineno if body else function.lineno
    return (function.end_lineno or first) - first + 1


def parameters(function: ast.FunctionDef) -> int:
    """Count the parameters of a function, without `self` and `cls`."""
    arguments = function.args
    names = [each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def check(sizes: dict[str, int], limit: int, exceptions: dict[str, tuple[int, str]]) -> None:
    """Assert that only exceptions exceed the limit, that none exceeds its ceiling, and that all are needed."""
    over = {name: size for name, size in sizes.items() if size > exceptions.get(name, (limit, ""))[0]}
    assert over == {}, f"the limit is {limit}"
    unneeded = [name for name in exceptions if sizes.get(name, 0) <= limit]
    assert unneeded == [], "remove these exceptions"


def test_files_have_at_most_300_lines() -> None:
    check({name: len(text.splitlines()) for name, text in modules()}, FILE_LINES, LONG_FILES)


def test_functions_have_at_most_60_lines() -> None:
    sizes: dict[str, int] = {}
    for name, function in functions():
        sizes[name] = max(length(name, function), sizes.get(name, 0))
    check(sizes, FUNCTION_LINES, LONG_FUNCTIONS)


def test_library_functions_have_at_most_8_parameters() -> None:
    sizes: dict[str, int] = {}
    for name, function in functions():
        if not name.startswith("cli/"):
            sizes[name] = max(parameters(function), sizes.get(name, 0))
    check(sizes, PARAMETERS, MANY_PARAMETERS)
