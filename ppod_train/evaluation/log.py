"""evaluations.jsonl of a run: every evaluation as one line, for programs and notebooks.

    pandas.read_json("run/evaluations.jsonl", lines=True)

The fields of a line are step, or stage in an online run; the metrics over all prompts (`Metrics`); statistics
({name: the fields of `ImageChange`}); finding ({kind, evidence} or null); and usage, of a scorer that counts requests.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ppod_data.storage.files import atomic_write, read_small
from ppod_data.storage.json_reader import parse_json
from ppod_train.evaluation.exploitation import find
from ppod_train.evaluation.metrics import EvalResult

LOG_NAME = "evaluations.jsonl"
_MAX_LOG = 1 << 30


def log_evaluation(run: Path, key: str, number: int, result: EvalResult) -> None:
    """Append an evaluation to the log of a run. It replaces the lines from `number` on, which a resume repeats.

    Args:
        run: folder of the run.
        key: what is counted: step or stage.
        number: of the step or stage.
        result: the evaluation.
    """
    finding = find(result)
    record: dict[str, Any] = {
        key: number,
        **asdict(result.overall),
        "statistics": {name: asdict(change) for name, change in result.images.items()},
        "finding": None if finding is None else asdict(finding),
        **({} if result.usage is None else {"usage": asdict(result.usage)}),
    }
    kept = _lines_before(run / LOG_NAME, key, number)
    atomic_write(run / LOG_NAME, "".join(f"{line}\n" for line in [*kept, json.dumps(record)]).encode())


def forget_evaluations(run: Path, key: str, number: int) -> None:
    """Remove the evaluations after `number` from the log of a run."""
    if (run / LOG_NAME).exists():
        kept = _lines_before(run / LOG_NAME, key, number + 1)
        atomic_write(run / LOG_NAME, "".join(f"{line}\n" for line in kept).encode())


def _lines_before(path: Path, key: str, number: int) -> list[str]:
    """Return the lines of a log below `number`; lines of another form are left out."""
    if not path.is_file():
        return []
    lines = read_small(path, _MAX_LOG).decode(errors="replace").splitlines()
    return [line for line in lines if _number(line, key) < number]


def _number(line: str, key: str) -> float:
    try:
        return int(parse_json(line)[key])
    except (ValueError, LookupError, TypeError):
        return float("inf")
