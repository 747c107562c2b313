"""A run folder of a stranger: whatever stands in its records, a reader works or names what is wrong."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ppod_data.errors import DamagedError, PpodError
from ppod_train.evaluation.files import read_evaluation
from ppod_train.report import write_report
from ppod_train.run.checkpoint import load_state
from ppod_train.run.run_folder import forget_after
from tests.support.report_cases import make_online_run, make_run

VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    10**18,
    1e308,
    float("nan"),
    "",
    "<b>\x1b",
    [],
    [[]],
    {},
    {"a": []},
)
RAW = ("\\ud800", "9" * 5000, "1e999")


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = (
        value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    )
    for key, item in items:
        yield from leaves(item, (*path, key))


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = put(value[path[0]], path[1:], new)
    return copy


@pytest.mark.parametrize("online", [False, True])
def test_a_report_of_edited_records_is_made_or_refused_by_name(online: bool, tmp_path: Path) -> None:
    out = tmp_path / "run"
    if online:
        make_online_run(out, stages=1, steps=1)
    else:
        make_run(out, steps=1, evaluated=(0, 1))
    chooser = random.Random(online)
    refused = 0
    for file in sorted(out.rglob("*.json*")):
        whole = file.read_text()
        value = json.loads(whole.splitlines()[0] if file.suffix == ".jsonl" else whole)
        places = list(leaves(value))
        for path in chooser.sample(places, min(len(places), 40)):
            for new in chooser.sample(VALUES, 1):
                file.write_text(json.dumps(put(value, path, new)) + "\n")
                try:
                    write_report([out], tmp_path / "r.html")
                except PpodError as error:
                    assert str(out) in str(error) and "\n" not in str(error)
                    refused += 1
        for raw in RAW:
            file.write_text('{"a": ' + (raw if raw[0] != "\\" else f'"{raw}"') + "}")
            write_report([out], tmp_path / "r.html")  # what is not whole is left out
        file.write_text(whole)
    assert refused > 0


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a": ' + "9" * 5000 + "}", '{"a": "\\ud800"}', "{", "[]", "3", "\xff"]
)
def test_a_record_that_is_no_json_object_is_damage(text: str, tmp_path: Path) -> None:
    out = make_run(tmp_path / "run", steps=2)
    folder = out / "evals" / "step-000000"
    (folder / "eval.json").write_text(text, encoding="latin-1")
    with pytest.raises(DamagedError, match=r"eval\.json"):
        read_evaluation(folder)
    (tmp_path / "state.json").write_text(text, encoding="latin-1")
    with pytest.raises(DamagedError, match=r"state\.json"):
        load_state(tmp_path)
    (out / "metrics.jsonl").write_text(text + "\n", encoding="latin-1")
    forget_after(out, 10)
    assert (out / "metrics.jsonl").read_text() == ""


@pytest.mark.parametrize(
    "changes", [{"columns": 10**9}, {"width": 10**6}, {"height": 0}, {"prompts": ["a"] * 10_000}]
)
def test_a_contact_sheet_is_cut_within_its_pixels(changes: dict[str, Any], tmp_path: Path) -> None:
    out = make_run(tmp_path / "run", steps=2)
    file = out / "evals" / "step-000000" / "eval.json"
    record = json.loads(file.read_text())
    file.write_text(json.dumps(record | {"sheet": record["sheet"] | changes}))
    with pytest.raises(DamagedError, match="no readable evaluation"):
        read_evaluation(file.parent)


def test_a_folder_name_with_a_huge_number_costs_nothing(tmp_path: Path) -> None:
    out = make_online_run(tmp_path / "run", steps=2)
    (out / "stage-999999999").mkdir()
    (out / "stage-99999999999999999999").mkdir()
    write_report([out], tmp_path / "r.html")
