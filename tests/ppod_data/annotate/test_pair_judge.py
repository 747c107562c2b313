"""A vision language model as an annotator: both orders, resumable, imported and compared like people."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import ImageStat

from ppod_data import agreement, import_labels
from ppod_data.annotate.line_file import lock_folder
from ppod_data.annotate.pair_judge import JudgeSummary, judge_pairs
from ppod_data.annotate.questions import read_pair_questions, read_questions
from ppod_data.annotate.session import open_session
from ppod_data.dataset.dataset import Dataset
from ppod_data.errors import ConfigError, DamagedError, RewardError, RewardUnavailableError
from ppod_data.format.images import decode_image
from ppod_data.labels.agreement import label_agreement
from ppod_data.labels.votes import Votes
from ppod_data.rewards.servers.http_client import Patience
from ppod_data.rewards.vlm import chat as chat_module
from ppod_data.rewards.vlm.answers import Reply
from ppod_data.rewards.vlm.pairs import connect_pairs, read_choice
from tests.support.refused import fail_to_read
from tests.support.reward_servers import Running, serving
from tests.support.toy import files, make_dataset


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with serving() as running:
        yield running


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry sooner."""
    monkeypatch.setattr(chat_module, "Patience", lambda answer: Patience(3, 0.01, 5, answer))


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Twelve images of two prompts: fifteen pairs each."""
    return make_dataset(tmp_path / "data", num_images_per_prompt=6, images_per_shard=16)


def judged(dataset: Dataset, server: Running, model: str = "bright", count: int = 30) -> JudgeSummary:
    questions = read_questions(dataset, size=2, count=count, seed=0)
    judge = connect_pairs(f"openai:{server.url}/v1#{model}")
    return judge_pairs(dataset, judge, questions, dataset.root / "labels" / "judge.answers")


def lights(dataset: Dataset) -> dict[str, float]:
    rows = dataset.samples(["sample_id", "image"]).to_pylist()
    images = {row["sample_id"]: decode_image(row["image"]["bytes"]) for row in rows}
    return {name: ImageStat.Stat(image.convert("L")).mean[0] for name, image in images.items()}


def test_each_pair_is_asked_in_both_orders_and_becomes_a_label(dataset: Dataset, server: Running) -> None:
    done = judged(dataset, server)
    assert (done.num_judged, done.num_skipped, done.num_unreadable, done.num_answers) == (30, 0, 0, 30)
    assert done.usage.requests == 61  # two for each pair, and one that tells what the server can do
    assert done.first_preferred == pytest.approx(0.5) and done.num_reversed == 0
    folder = dataset.root / "labels" / "judge.answers"
    assert import_labels(dataset, folder, format="ppod-judge", name="judge").num_pairs == 30
    light = lights(dataset)
    rows = dataset.labels("judge").to_pylist()
    assert len(rows) == 30 and len({row["annotator"] for row in rows}) == 1
    assert all((row["label"] > 0.5) == (light[row["a_id"]] > light[row["b_id"]]) for row in rows)
    assert {row["votes"] for row in rows} == {1}
    assert 5 < sum(row["a_id"] < row["b_id"] for row in rows) < 25  # the first order is random


def test_a_bias_to_the_first_image_cancels_and_is_reported(dataset: Dataset, server: Running) -> None:
    done = judged(dataset, server, "first")
    assert done.first_preferred is not None and done.first_preferred > 0.7 and done.num_reversed > 10
    import_labels(dataset, Path(done.file).parent, format="ppod-judge", name="judge")
    light = lights(dataset)
    rows = dataset.labels("judge").to_pylist()
    assert all((row["label"] > 0.5) == (light[row["a_id"]] > light[row["b_id"]]) for row in rows)


def test_a_killed_judge_resumes_after_its_last_whole_line(dataset: Dataset, server: Running) -> None:
    done = judged(dataset, server)
    whole = Path(done.file).read_bytes()
    Path(done.file).write_bytes(whole[: len(whole) // 2])
    again = judged(dataset, server)
    assert 0 < again.num_skipped < 30 and again.num_judged == 30 - again.num_skipped
    assert Path(done.file).read_bytes() == whole
    last = judged(dataset, server)
    assert (last.num_judged, last.usage.requests) == (0, 1)


def test_answers_before_a_server_died_are_kept(dataset: Dataset, server: Running, tmp_path: Path) -> None:
    text = f'url = "{server.url}/v1"\nmodel = "bright"\nmax_requests = 21\nconcurrency = 1\n'
    (tmp_path / "few.toml").write_text(text)
    questions = read_questions(dataset, size=2, count=30, seed=0)
    folder = tmp_path / "answers"
    with pytest.raises(RewardUnavailableError, match="the limit of 21 requests is reached"):
        judge_pairs(dataset, connect_pairs(f"openai:{tmp_path / 'few.toml'}"), questions, folder)
    (tmp_path / "few.toml").write_text(text.replace("max_requests = 21", "max_requests = 100"))
    done = judge_pairs(dataset, connect_pairs(f"openai:{tmp_path / 'few.toml'}"), questions, folder)
    assert (done.num_skipped, done.num_judged) == (10, 20)


def test_nonsense_stops_after_the_first_answers_and_is_asked_again(dataset: Dataset, server: Running) -> None:
    with pytest.raises(RewardError, match=r"no readable answer to the first 8 questions .*A banana"):
        judged(dataset, server, "nonsense")
    few = judged(dataset, server, "nonsense", count=3)
    assert (few.num_unreadable, few.num_answers, few.first_preferred) == (3, 0, None)
    with pytest.raises(ConfigError, match=r"no labels: .*could not be read"):
        import_labels(dataset, Path(few.file).parent, format="ppod-judge", name="judge")


def spoil(path: Path) -> None:
    """Flip a bit of an image in a part of the samples."""
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 20] ^= 4
    path.write_bytes(data)


def test_a_damaged_part_costs_its_own_pairs_alone(tmp_path: Path, server: Running) -> None:
    """Its pairs come first and are more than those after which a judge without a readable answer is rejected."""
    dataset = make_dataset(tmp_path / "data", num_images_per_prompt=6, images_per_shard=6)
    parts = sorted((tmp_path / "data" / "samples").glob("*.parquet"))
    whole = parts[0].read_bytes()
    spoil(parts[0])
    readable = set(dataset.spec.shard_sample_ids(1))
    questions = read_questions(dataset, size=2, count=30, seed=0)
    questions.sort(key=lambda question: readable.issuperset(question.ids))
    judge, folder = connect_pairs(f"openai:{server.url}/v1#bright"), tmp_path / "answers"
    done = judge_pairs(dataset, judge, questions, folder)
    assert (done.num_judged, done.num_unreadable, done.num_answers) == (15, 15, 15)
    assert done.first_unreadable is not None and f"{parts[0]}: damaged" in done.first_unreadable
    parts[0].write_bytes(whole)
    again = judge_pairs(dataset, judge, questions, folder)
    assert (again.num_skipped, again.num_judged, again.num_unreadable) == (15, 15, 0)


def test_a_data_set_without_an_image_that_can_be_shown_is_an_error(
    dataset: Dataset, server: Running, tmp_path: Path
) -> None:
    [path] = (tmp_path / "data" / "samples").glob("*.parquet")
    spoil(path)
    with pytest.raises(DamagedError, match=r"000000\.parquet: damaged"):
        judged(dataset, server)
    fail_to_read(path)
    with pytest.raises(OSError, match="Input/output error"):
        judged(dataset, server)


def test_the_pairs_of_a_table_are_judged_and_agreement_is_measured(
    dataset: Dataset, server: Running, tmp_path: Path
) -> None:
    light = lights(dataset)
    ids = sorted(light)
    prompt_of = dict(
        zip(*(dataset.samples()[name].to_pylist() for name in ("sample_id", "prompt_id")), strict=True)
    )
    rows = [(a, b) for a in ids for b in ids if a < b and prompt_of[a] == prompt_of[b]][:12]
    lines = [
        {"a": a, "b": b, "label": "a" if (light[a] > light[b]) != (place < 3) else "b", "annotator": "p"}
        for place, (a, b) in enumerate(rows)
    ]  # people who are wrong about three of twelve
    (tmp_path / "people.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    import_labels(dataset, tmp_path / "people.jsonl", format="table", name="people")
    questions = read_pair_questions(dataset, "people", count=100, seed=0)
    assert {frozenset(question.ids) for question in questions} == {frozenset(pair) for pair in rows}
    assert len(read_pair_questions(dataset, "people", count=5, seed=0)) == 5
    judge = connect_pairs(f"openai:{server.url}/v1#bright")
    judge_pairs(dataset, judge, questions, tmp_path / "answers")
    import_labels(dataset, tmp_path / "answers", format="ppod-judge", name="vlm")
    (found,) = agreement(dataset, "people").others
    assert (found.labels, found.num_pairs, found.num_ties) == ("vlm", 12, 0)
    assert found.accuracy is not None and found.accuracy.value == pytest.approx(9 / 12)
    assert found.krippendorff_alpha is not None and 0 < found.krippendorff_alpha < 1


def test_two_tables_agree_on_ties_and_winners_whatever_the_order_of_their_images() -> None:
    def votes(*rows: tuple[int, int, float]) -> Votes:
        a, b, label = (np.array(column) for column in zip(*rows, strict=True))
        return Votes(a=a.astype(np.int32), b=b.astype(np.int32), label=label, votes=np.ones(len(a), np.int32))

    one = votes((0, 1, 1.0), (2, 3, 0.0), (4, 5, 0.5), (6, 7, 1.0))
    other = votes((1, 0, 0.1), (2, 3, 0.9), (5, 4, 0.5), (8, 9, 1.0))
    found = label_agreement(one, other, "x")
    assert (found.num_pairs, found.num_ties) == (3, 1)
    assert found.accuracy is not None and found.accuracy.value == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("text", "value"), [("1", 1.0), ("Image 2.", 0.0), ("1 or 2", None), ("1.5", None), ("A tie", None)]
)
def test_a_stated_choice_is_read(text: str, value: float | None) -> None:
    assert read_choice(Reply(text, (), "m")) == value


def test_a_file_of_other_lines_is_damage(dataset: Dataset, server: Running) -> None:
    done = judged(dataset, server, count=2)
    Path(done.file).write_text('{"shown": 3}\n')
    with pytest.raises(DamagedError, match=r":1: not an answer of ppod-pair judge"):
        judged(dataset, server, count=2)


def test_people_s_answers_are_not_mixed_with_a_judge_s(dataset: Dataset, server: Running) -> None:
    folder = dataset.root / "labels" / "judge.answers"
    open_session(folder, read_questions(dataset, size=2, count=3, seed=0)).close()
    with pytest.raises(ConfigError, match="holds people's answers: give the judge another --name"):
        judged(dataset, server, count=3)


def test_people_are_kept_out_of_a_judge_s_folder_and_the_judge_resumes(
    dataset: Dataset, server: Running
) -> None:
    questions = read_questions(dataset, size=2, count=3, seed=0)
    folder = dataset.root / "labels" / "judge.answers"
    folder.mkdir(parents=True)
    lock = lock_folder(folder)  # a judge that waits for its first answer
    with pytest.raises(ConfigError, match="another ppod-pair label or judge is collecting answers here"):
        open_session(folder, questions)
    os.close(lock)
    assert files(folder) == {}
    judged(dataset, server, count=2)
    before = files(folder)
    with pytest.raises(ConfigError, match=r"holds a judge's answers, .*: give people another --name"):
        open_session(folder, questions)
    assert files(folder) == before
    assert judged(dataset, server, count=3).num_skipped == 2
