"""Detection of a folder's kind, so that no command overwrites the output of another."""

from collections.abc import Mapping
from pathlib import Path

from ppod_data.errors import ConfigError
from ppod_data.storage.files import DataPath

DATASET, OFFLINE, ONLINE, EVALUATION = "a data set", "an offline run", "an online run", "an evaluation"

_MARKS = {
    "ppod.json": DATASET,
    "online.json": ONLINE,
    "run.json": OFFLINE,
    "after/eval.json": EVALUATION,
    "before/eval.json": EVALUATION,
    ".ppod-export": "exported images",
    "model_index.json": "a model",
    "pytorch_lora_weights.safetensors": "an adapter",
    "adapter_config.json": "an adapter",
}
"""The file that marks a folder of each kind. An offline run has no online.json."""

_WRITES: Mapping[str, tuple[str, ...]] = {
    OFFLINE: (
        "metrics.jsonl",
        "evaluations.jsonl",
        "summary.json",
        "report.html",
        "evals",
        "checkpoints",
        "policy",
        "tensorboard",
    ),
    ONLINE: (
        "summary.json",
        "evaluations.jsonl",
        "report.html",
        "evals",
        "policy",
        "tensorboard",
        "stage-01",
    ),
    EVALUATION: ("summary.json", "report.html", "grid.png", "before", "after"),
}
"""Names that a command of each kind writes beside its mark."""

_PARTS = {
    DATASET: ("samples", "trajectories", "scores", "pairs", "labels", "log_probs"),
    OFFLINE: ("evals", "checkpoints", "policy", "tensorboard"),
    ONLINE: ("evals", "policy", "tensorboard"),
    EVALUATION: ("before", "after"),
}
"""Folders of each kind that hold only its own files."""


def folder_kind(folder: DataPath) -> str | None:
    """Return a folder's kind by the file that marks it, or None for an unmarked folder."""
    return next((kind for mark, kind in _MARKS.items() if (folder / mark).is_file()), None)


def check_out(out: Path, kind: str, *, option: str = "--out") -> None:
    """Check that a command that makes `kind` may write to `out`: a new folder, or an existing one of its kind.

    Raises:
        ConfigError: `out` is a file, a folder of another kind, a part of one, or holds files of the same names.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file: give another {option}")
    existing = folder_kind(out)
    if existing is not None and existing != kind:
        raise ConfigError(f"{out} holds {existing}, which this would overwrite: give another {option}")
    if existing is None:
        taken = [name for name in _WRITES[kind] if (out / name).exists()]
        if taken:
            raise ConfigError(
                f"{out} holds {taken[0]} already and is not {kind}: give a new folder for {option}"
            )
    check_not_inside(out, option=option)


def check_not_inside(out: Path, *, option: str) -> None:
    """Raise ConfigError for a path inside a folder where a data set, run or evaluation keeps its own files."""
    path = out.resolve()
    for part, folder in zip([path, *path.parents], path.parents, strict=False):
        owner = folder_kind(folder)
        if owner is not None and part.name in _PARTS.get(owner, ()):
            raise ConfigError(f"{out} is inside {folder}, which is {owner}: give another {option}")


def check_html(file: Path, *, option: str) -> None:
    """Check that an HTML page may be written to `file`: a new file, or an earlier page.

    Raises:
        ConfigError: `file` is a folder, or a file that is not an HTML page.
    """
    if file.is_dir():
        raise ConfigError(f"{file} is a folder: give the name of a file for {option}, {file / 'report.html'}")
    if file.is_file():
        with file.open("rb") as start:
            if not start.read(256).lstrip().lower().startswith(b"<!doctype html"):
                raise ConfigError(f"{file} is not an HTML page: give another {option}")
