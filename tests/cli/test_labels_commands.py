"""The commands on labels, as users run them: import, understand, combine, export, train."""

import csv
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from ppod_cli import pair

from ppod_data.dataset.dataset import Dataset
from ppod_data.library.annotating import LabelPage
from tests.cli.conftest import Made
from tests.support.command import call, following, ran
from tests.support.reward_servers import serving
from tests.support.toy import files


@pytest.fixture(scope="module")
def labelled(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the data set, and answers.csv: two people judge every two images of a prompt, and agree."""
    folder = tmp_path_factory.mktemp("labelled")
    shutil.copytree(made.data, folder / "data")
    samples = Dataset.open(made.data).samples(["sample_id", "prompt"]).to_pylist()
    with (folder / "answers.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt", "a", "b", "label", "annotator"])
        for one, other in itertools.combinations(samples, 2):
            if one["prompt"] == other["prompt"]:
                for who in ("anna", "bert"):
                    writer.writerow([one["prompt"], one["sample_id"], other["sample_id"], "a", who])
    return folder


def succeed(*arguments: object) -> dict[str, Any]:
    done = call(pair.app, *arguments, "--json")
    assert done.code == 0, done.stderr
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def test_labels_from_a_file_to_pairs_scores_and_exports(labelled: Path) -> None:
    data, answers = labelled / "data", labelled / "answers.csv"
    found = succeed("import", data, answers, "--format", "table", "--name", "people", "--license", "CC0-1.0")
    assert (found["num_records"], found["num_preferences"], found["num_pairs"]) == (60, 60, 30)
    assert "labels-people" in (data / "README.md").read_text()
    found = succeed("agreement", data, "--labels", "people", "--scores", "people")
    assert found["people"]["raw"] == 1.0 and found["people"]["num_annotators"] == 2
    assert [one["reward"] for one in found["rewards"]] == ["scenes"]
    assert found["scores"] == {"name": "people", "num_scored": 12, "num_unjudged": 0}
    found = succeed("rank", data, "--reward", "people", "--strategy", "all", "--name", "by-people")
    assert found["num_pairs"] == 30
    combine = ("combine", data, "--pairs", "people=2", "--pairs", "scenes", "--name", "both")
    found = succeed(*combine, "--validation-share", "0.5")
    assert set(found["tables"]) == {"both-train", "both-validation"}
    for format, out in (("csv", "c.csv"), ("webdataset", "tars")):
        assert succeed("export", data, "--name", "people", "--format", format, "--out", labelled / out)
    assert len(list(csv.DictReader((labelled / "c.csv").open()))) == 30


def test_what_people_read_says_what_to_do_next(labelled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(labelled)
    shutil.copytree("data", "fresh")
    done = call(pair.app, "import", "fresh", "answers.csv", "--format", "table")
    assert done.code == 0, done.stderr
    assert done.stdout.splitlines() == [
        "fresh/labels/table.parquet: 60 labels from 60 records, 0 of them ties",
        "fresh/pairs/table.parquet: 30 pairs on overall",
        "next: ppod-train offline fresh --pairs table --reward scenes --out run",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("import", "data", "no.csv", "--format", "table"), "no.csv: no such file or folder"),
        (("import", "data", "notes.txt", "--format", "table"), "not a label file"),
        (
            ("import", "data", "bad.csv", "--format", "table"),
            "bad.csv:1: 'x' is not an image of this data set",
        ),
        (("agreement", "data", "--labels", "none"), "no labels named 'none':"),
        (("combine", "data", "--pairs", "scenes=x", "--name", "z"), "'x' is no weight: write NAME=2"),
        (("export", "data", "--name", "no", "--format", "csv", "--out", "o.csv"), "no pairs named 'no':"),
        (
            ("export", "data", "--name", "scenes", "--format", "trl", "--out", "data/pairs/x.parquet"),
            "data/pairs/x.parquet is inside",
        ),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(
    labelled: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(labelled)
    (labelled / "notes.txt").write_text("a\n")
    good = (labelled / "answers.csv").read_text().splitlines()
    (labelled / "bad.csv").write_text("\n".join([good[0], ",x,y,a,", *good[1:]]))
    before = files(labelled)
    failed = call(pair.app, *arguments)
    assert failed.code == 2 and message in failed.one_error()
    assert files(labelled) == before


def test_scores_of_a_data_set_with_an_exclusion_are_ranked_by_the_next_line(
    labelled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(labelled)
    shutil.copytree("data", "excluding", ignore=shutil.ignore_patterns("people*", "by-people*"))
    ran("ppod-pair import excluding answers.csv --format table --name people")
    first = Dataset.open("excluding")[0]["sample_id"]
    ran(f"ppod-data exclude excluding {first} --reason 'taken down'")
    scored = ran("ppod-pair agreement excluding --labels people --scores people")
    assert "excluding/scores/people: 11 images scored by people, 0 compared by nobody" in scored.stdout
    assert following(scored) == "ppod-pair rank excluding --reward people --name people-scores"
    ran(following(scored))
    ran("ppod-data verify excluding --read-data")
    other = ran("ppod-pair agreement excluding --labels people --scores by-people")
    assert following(other) == "ppod-pair rank excluding --reward by-people"


def test_later_answers_of_a_judge_are_imported_by_the_next_line(
    labelled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(labelled)
    shutil.copytree("data", "judged", ignore=shutil.ignore_patterns("labels", "people*"))
    with serving() as server:
        line = f"ppod-pair judge judged --judge 'openai:{server.url}/v1#bright' --num-questions"
        first = ran(line, 3)
        assert following(first).endswith("--format ppod-judge --name judge")
        ran(following(first))
        mistyped = call(pair.app, "label", "judged", "--name", "judge")
        assert "holds a judge's answers" in mistyped.one_error()
        second = ran(line, 6)
        assert following(second).endswith("--format ppod-judge --name judge-2")
        ran(following(second))
        nothing_new = ran(line, 6)
        assert following(nothing_new) == following(second)
        ran(following(nothing_new))
    assert [len(Dataset.open("judged").labels(name)) for name in ("judge", "judge-2")] == [3, 6]


def test_later_answers_of_people_are_imported_by_the_next_line(
    labelled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(page: LabelPage, *_: object) -> None:
        turn = page.session.next("anna")
        page.session.record("anna", turn.number, turn.shown, 0)

    monkeypatch.chdir(labelled)
    shutil.copytree("data", "asked", ignore=shutil.ignore_patterns("labels", "people*"))
    for name, serve in (("people", answer), ("people-2", answer), ("people-2", lambda *_: None)):
        with monkeypatch.context() as patch:
            patch.setattr(LabelPage, "serve", serve)
            done = ran("ppod-pair label asked")
        assert following(done).endswith(f"--format ppod-label --name {name}")
        ran(following(done))
    assert [len(Dataset.open("asked").labels(name)) for name in ("people", "people-2")] == [1, 2]
