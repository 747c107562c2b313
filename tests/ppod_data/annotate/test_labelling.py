"""The labelling page without a browser: which questions, durable answers, who is asked what, who may ask."""

import itertools
import json
import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from ppod_data.annotate.app import label_app
from ppod_data.annotate.journal import SKIP, TIE, Answer, Journal
from ppod_data.annotate.questions import REWARDS_OF, Question, draw_groups, read_questions
from ppod_data.annotate.session import Session, StaleError, Turn, open_session
from ppod_data.errors import ConfigError, DamagedError
from ppod_data.labels.importing import import_labels
from ppod_data.labels.rows import Annotators
from tests.support.damage import spoil_image
from tests.support.refused import fail_to_read
from tests.support.toy import make_dataset

QUESTIONS = [Question(f"prompt {i}", (f"{i}-left", f"{i}-right")) for i in range(30)]


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    size=st.integers(2, 4),
    count=st.integers(1, 200),
    seed=st.integers(0, 5),
)
def test_groups_are_different_and_of_one_prompt(sizes: list[int], size: int, count: int, seed: int) -> None:
    prompt_of = np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)
    possible = sum(len(list(itertools.combinations(range(n), size))) for n in sizes)
    if not possible:
        with pytest.raises(ConfigError, match="no prompt has"):
            draw_groups(prompt_of, size=size, count=count, seed=seed)
        return
    groups = draw_groups(prompt_of, size=size, count=count, seed=seed)
    assert len(groups) == min(count, possible) == len(set(groups))
    assert all(len(set(prompt_of[list(group)])) == 1 and len(set(group)) == size for group in groups)
    assert groups == draw_groups(prompt_of, size=size, count=count, seed=seed)


def test_prompts_take_turns() -> None:
    groups = draw_groups(np.repeat(np.arange(5), 6).astype(np.int32), size=2, count=10, seed=0)
    assert [group[0] // 6 for group in groups[:5]] == [group[0] // 6 for group in groups[5:]]
    assert {group[0] // 6 for group in groups[:5]} == set(range(5))


def test_many_images_of_a_prompt_are_drawn_from_not_listed() -> None:
    groups = draw_groups(np.zeros(10_000, np.int32), size=2, count=100, seed=3)
    assert len(set(groups)) == 100 and all(a < b for a, b in groups)


def test_the_nearest_scores_come_first_and_images_without_one_never() -> None:
    score = np.array([0.0, 1.0, 1.1, 3.0, np.nan])
    groups = draw_groups(
        np.zeros(5, np.int32), size=2, count=9, seed=0, choose="small-margin", scores=[score]
    )
    assert groups == [(1, 2), (0, 1), (0, 2), (2, 3), (1, 3), (0, 3)]


def test_rewards_disagree_most_first_on_any_scale() -> None:
    one = np.array([0.0, 1.0, 2.0, 3.0])
    other = np.array([300.0, 100.0, 200.0, 0.0])
    groups = draw_groups(
        np.zeros(4, np.int32), size=2, count=9, seed=0, choose="disagreement", scores=[one, other]
    )
    assert groups[0] == (0, 3) and (1, 2) not in groups and len(groups) == 5
    with pytest.raises(ConfigError, match="try --choose random"):
        draw_groups(np.zeros(4, np.int32), size=2, count=9, seed=0, choose="disagreement", scores=[one, one])


SCORES = np.array([0.42, 0.72, 0.0, 0.3, np.nan, 0.09, 0.19, 0.35, 0.4, 0.54, 0.42, 0.69, 0.2])
OTHER_SCORES = np.array([0.44, 0.03, 0.55, 0.44, 0.42, 0.33, 0.2, 0.62, 0.3, 0.27, 0.62, 0.53, 0.13])


@pytest.mark.parametrize(
    ("options", "groups"),
    [
        ({"size": 2, "seed": 0}, [(2, 6), (4, 5), (3, 10), (0, 5), (1, 12), (4, 9), (1, 3)]),
        ({"size": 2, "seed": 1}, [(10, 12), (4, 5), (2, 6), (3, 12), (0, 9), (1, 7), (4, 9)]),
        ({"size": 3, "seed": 0}, [(0, 4, 9), (1, 10, 12), (0, 4, 5), (1, 7, 10), (0, 5, 9), (1, 3, 7)]),
        (
            {"size": 2, "seed": 0, "choose": "small-margin", "scores": [SCORES]},
            [(2, 6), (0, 9), (3, 7), (0, 5), (7, 10), (5, 9), (3, 12)],
        ),
        (
            {"size": 2, "seed": 1, "choose": "disagreement", "scores": [SCORES, OTHER_SCORES]},
            [(1, 3), (0, 9), (2, 6), (1, 7), (5, 9), (1, 10), (1, 12)],
        ),
    ],
)
def test_a_seed_gives_the_questions_of_earlier_versions(
    options: dict[str, Any], groups: list[tuple[int, ...]]
) -> None:
    """A session that is continued asks the same questions, whatever their number."""
    prompt_of = np.array([2, 0, 1, 0, 2, 2, 1, 0, 3, 2, 0, 4, 0], np.int32)
    for count in range(1, len(groups) + 1):
        assert draw_groups(prompt_of, count=count, **options) == groups[:count]
    many = draw_groups(np.zeros(200, np.int32), size=2, count=5, seed=3)
    assert many == [(95, 125), (4, 121), (98, 128), (56, 197), (31, 54)]


@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=12),
    count=st.integers(1, 60),
    choose=st.sampled_from(["random", "small-margin", "disagreement"]),
    seed=st.integers(0, 3),
)
def test_fewer_questions_are_the_first_of_more(sizes: list[int], count: int, choose: str, seed: int) -> None:
    prompt_of = np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)
    random = np.random.default_rng(seed)
    scores = [random.random(len(prompt_of)) for _ in range(REWARDS_OF[choose])]
    options: dict[str, Any] = {"size": 2, "seed": seed, "choose": choose, "scores": scores}
    try:
        every = draw_groups(prompt_of, count=10_000, **options)
    except ConfigError:
        return
    assert draw_groups(prompt_of, count=count, **options) == every[:count]


@pytest.mark.parametrize(("num_prompts", "num_images", "count"), [(4000, 16, 100), (100, 64, 500)])
@pytest.mark.parametrize("choose", ["random", "small-margin"])
def test_memory_grows_with_the_questions_not_with_the_groups_of_all_prompts(
    num_prompts: int, num_images: int, count: int, choose: str
) -> None:
    prompt_of = np.repeat(np.arange(num_prompts), num_images).astype(np.int32)
    scores = [np.random.default_rng(0).random(len(prompt_of))] * REWARDS_OF[choose]
    tracemalloc.start()
    try:
        groups = draw_groups(prompt_of, size=2, count=count, seed=0, choose=choose, scores=scores)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(groups) == count
    assert peak < 5 << 20, f"{peak >> 20} MiB"  # all groups take several times as much


def test_a_journal_keeps_what_was_acknowledged_and_cuts_off_what_was_not(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "anna.jsonl"
    journal = Journal(path)
    answers = [Answer((f"{i}", "x"), i % 2, "anna") for i in range(3)]
    for answer in answers:
        journal.append(answer)
    whole = path.read_bytes()
    assert path.stat().st_mode & 0o077 == 0
    for end in range(len(whole) + 1):
        path.write_bytes(whole[:end])
        again = Journal(path)
        kept = whole[:end].count(b"\n")
        assert again.answers == answers[:kept]
        again.append(answers[0])
        assert again.undo() == answers[0]
        assert path.read_bytes() == b"".join(whole.splitlines(keepends=True)[:kept])


def test_another_file_is_no_journal(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(DamagedError, match=r"x\.jsonl:1: not an answer of ppod-pair label"):
        Journal(tmp_path / "x.jsonl")


def test_a_full_disk_leaves_the_journal_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path / "anna.jsonl")
    journal.append(Answer(("a", "b"), 0, "anna"))
    before = journal.path.read_bytes()
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, at: real(file, data[:7], at))
    with pytest.raises(OSError, match="the disk took 7"):
        journal.append(Answer(("c", "d"), 1, "anna"))
    assert journal.path.read_bytes() == before and len(journal.answers) == 1


def session(folder: Path, **options: Any) -> Session:
    return Session(folder, QUESTIONS, Annotators(b"salt", "people"), **options)


def answer(asked: Session, name: str, said: int | str = 0) -> Turn:
    turn = asked.next(name)
    assert turn.question is not None
    asked.record(name, turn.number, turn.shown, said)
    return turn


def test_people_share_the_questions_and_each_is_answered_once(tmp_path: Path) -> None:
    asked = session(tmp_path)
    on_screen = {asked.next(name).shown for name in ("anna", "bert", "cleo")}
    assert len({frozenset(shown) for shown in on_screen}) == 3
    seen = [answer(asked, ("anna", "bert", "cleo")[i % 3]).question for i in range(30)]
    assert len(set(seen)) == 30
    last = asked.next("dora")
    assert last.question is None and (last.num_done, last.num_wanted) == (30, 30)


def test_several_people_are_asked_where_several_answers_are_wanted(tmp_path: Path) -> None:
    asked = session(tmp_path, answers_per_question=2)
    for name in ("anna", "bert"):
        assert len({answer(asked, name).question for _ in range(30)}) == 30
        assert asked.next(name).question is None
    assert asked.next("cleo").question is None


def test_a_skipped_question_goes_to_another_person_and_never_comes_back(tmp_path: Path) -> None:
    asked = session(tmp_path)
    skipped = answer(asked, "anna", SKIP).question
    assert answer(asked, "bert").question == skipped
    assert all(answer(asked, "anna").question != skipped for _ in range(29))


def test_some_questions_come_again_once_and_the_order_is_random(tmp_path: Path) -> None:
    asked = session(tmp_path, repeat_share=0.4)
    turns = []
    while asked.next("anna").question is not None:
        turns.append(answer(asked, "anna"))
    places: dict[Question | None, list[int]] = {}
    for place, turn in enumerate(turns):
        places.setdefault(turn.question, []).append(place)
    again = [where for where in places.values() if len(where) > 1]
    assert len(places) == 30 and 3 <= len(again) <= 25
    assert all(len(where) == 2 and where[1] - where[0] > 5 for where in again)
    left = sum(turn.shown[0].endswith("left") for turn in turns)
    assert 5 < left < len(turns) - 5
    count = asked.count()
    assert (count.num_answers, count.num_repeated) == (len(turns), len(again))


def test_an_answer_that_is_sent_twice_is_kept_once_and_a_late_one_is_refused(tmp_path: Path) -> None:
    asked = session(tmp_path)
    turn = answer(asked, "anna", 1)
    asked.record("anna", turn.number, turn.shown, 1)
    assert asked.count().num_answers == 1
    with pytest.raises(StaleError, match="answered this question differently"):
        asked.record("anna", turn.number, turn.shown, 0)
    with pytest.raises(StaleError):
        asked.record("anna", 7, turn.shown, 1)
    with pytest.raises(StaleError):
        asked.record("anna", 1, ["0-left", "1-right"], 1)
    with pytest.raises(ConfigError, match="expected the index of an image"):
        asked.record("anna", 1, asked.next("anna").shown, 2)


def test_only_who_was_asked_may_answer_and_only_while_an_answer_is_wanted(tmp_path: Path) -> None:
    asked = session(tmp_path)
    other = next(one for one in QUESTIONS if set(one.ids) != set(asked.next("anna").shown))
    with pytest.raises(StaleError, match="you were not asked"):
        asked.record("anna", 0, other.ids, 0)
    turn = answer(asked, "bert")
    for ticket in ("", turn.ticket, "\ud800"):
        with pytest.raises(StaleError, match="you were not asked"):
            asked.record("cleo", 0, turn.shown, 1, ticket)
    assert asked.count().num_answers == 1


def test_an_answer_on_its_way_while_the_server_is_started_again_is_kept(tmp_path: Path) -> None:
    first = session(tmp_path)
    turns = [first.next(name) for name in ("anna", "bert")]
    first.close()
    second = session(tmp_path)
    for name, turn in zip(("bert", "anna"), reversed(turns), strict=True):
        second.record(name, 0, turn.shown, 0, turn.ticket)
    assert second.count().num_answers == 2


def test_a_question_on_a_screen_that_was_left_is_asked_again_and_answered_once(tmp_path: Path) -> None:
    asked = Session(tmp_path, QUESTIONS[:1], Annotators(b"salt", "people"))
    left, mine = asked.next("anna"), asked.next("bert")
    assert mine.question == left.question
    asked.record("bert", 0, mine.shown, 0)
    with pytest.raises(StaleError, match="another person has answered"):
        asked.record("anna", 0, left.shown, 0)
    assert asked.next("anna").question is None and asked.count().num_answers == 1


@pytest.mark.parametrize("name", ["zoë", "ZOË", "Zoe\u0308", " Zo\u200bë ", "Zo\u00ad\u0065\u0308"])
def test_one_name_in_other_letters_is_one_person(tmp_path: Path, name: str) -> None:
    asked = session(tmp_path)
    answer(asked, "Zo\u00eb")
    assert asked.next(name).number == 1


def test_a_name_that_was_hashed_as_it_was_written_keeps_its_answers(tmp_path: Path) -> None:
    people = Annotators(b"salt", "people")
    who = str(people.hash("Eve"))
    Journal(tmp_path / f"{who}.jsonl").append(Answer(QUESTIONS[0].ids, 0, who))
    assert session(tmp_path).next("Eve").number == 1


def test_names_alone_leave_no_file_and_a_crowd_no_open_one(tmp_path: Path) -> None:
    asked = session(tmp_path, answers_per_question=400)
    few = len(os.listdir("/proc/self/fd")) + 20  # what else runs in this process opens files as well
    for number in range(100):
        asked.next(f"made up {number}")
    assert list(tmp_path.iterdir()) == []
    for number in range(100):
        answer(asked, f"person {number}")
    assert len(list(tmp_path.iterdir())) == 100 and len(os.listdir("/proc/self/fd")) < few
    asked.close()
    again = session(tmp_path)
    assert len(os.listdir("/proc/self/fd")) < few and again.count().num_annotators == 100


def test_answers_on_one_dimension_become_labels_on_it(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data")
    folder = tmp_path / "data" / "labels" / "people.answers"
    questions = read_questions(dataset, size=2, count=5, seed=0)
    asked = open_session(folder, questions, dimension="faces")
    answer(asked, "anna")
    asked.close()
    with pytest.raises(ConfigError, match="answers on faces, not on overall"):
        open_session(folder, questions)
    done = import_labels(dataset, folder, format="ppod-label", name="people")
    assert (done.dimension, done.num_preferences) == ("faces", 1)


@pytest.mark.parametrize("salt", [b"", b"x" * 31, b"x" * 33])
def test_a_secret_of_the_wrong_size_is_refused(tmp_path: Path, salt: bytes) -> None:
    (tmp_path / ".salt").write_bytes(salt)
    with pytest.raises(DamagedError, match=r"\.salt"):
        open_session(tmp_path, QUESTIONS)


def test_a_secret_that_is_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".salt")
    with pytest.raises(DamagedError, match="not a regular file"):
        open_session(tmp_path, QUESTIONS)


def test_what_is_taken_back_is_asked_again_as_it_was(tmp_path: Path) -> None:
    asked = session(tmp_path)
    answer(asked, "anna")
    turn = answer(asked, "anna", TIE)
    asked.undo("anna", 2)
    assert asked.next("anna").shown == turn.shown and asked.count().num_answers == 1
    asked.undo("anna", 1)
    with pytest.raises(StaleError):
        asked.undo("anna", 0)


def test_a_new_process_goes_on_and_two_at_once_are_refused(tmp_path: Path) -> None:
    first = session(tmp_path)
    done = [answer(first, "Anna").question for _ in range(4)]
    with pytest.raises(ConfigError, match="another ppod-pair label"):
        session(tmp_path)
    first.close()
    second = session(tmp_path)
    assert second.next(" Anna ").number == 4
    assert second.next("Anna").question not in done
    assert not any("Anna" in path.read_text() for path in tmp_path.iterdir())


def test_a_read_that_fails_is_not_taken_for_a_lost_answer(client: TestClient, tmp_path: Path) -> None:
    turn = client.post("/api/next", json={"annotator": "anna"}).json()
    for path in (tmp_path / "data" / "samples").iterdir():
        fail_to_read(path)
    said = {"annotator": "anna", "number": 0, "shown": turn["shown"], "answer": 1, "ticket": turn["ticket"]}
    answered = client.post("/api/answer", json=said)
    assert answered.status_code == 400
    assert answered.json()["error"].startswith("the images cannot be read: [Errno 5] Input/output error: '")
    [journal] = (tmp_path / "data" / "labels" / "people.answers").glob("*.jsonl")
    assert len(Journal(journal).answers) == 1


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    dataset = make_dataset(tmp_path / "data")
    asked = open_session(
        tmp_path / "data" / "labels" / "people.answers", read_questions(dataset, size=2, count=50, seed=0)
    )
    yield TestClient(label_app(dataset, asked, title="toy"), base_url="http://127.0.0.1:8080")
    asked.close()


def test_questions_images_and_answers_over_http_become_labels(client: TestClient, tmp_path: Path) -> None:
    from ppod_data.dataset.dataset import Dataset

    turn = client.post("/api/next", json={"annotator": "anna"}).json()
    for name in turn["shown"]:
        image = client.get(f"/image/{name}")
        assert image.headers["content-type"] == "image/png" and image.content.startswith(b"\x89PNG")
    said = {"annotator": "anna", "number": 0, "shown": turn["shown"], "answer": 1}
    assert client.post("/api/answer", json=said).json()["number"] == 1
    assert client.post("/api/answer", json=said).json()["number"] == 1
    assert client.post("/api/undo", json={"annotator": "anna", "number": 1}).json()["shown"] == turn["shown"]
    assert client.post("/api/answer", json=said).json()["number"] == 1
    data = tmp_path / "data"
    summary = import_labels(
        Dataset.open(data), data / "labels" / "people.answers", format="ppod-label", name="people"
    )
    assert (summary.num_answers, summary.num_pairs) == (1, 1)
    pair = Dataset.open(data).pairs("people").to_pylist()[0]
    assert [pair["rejected_id"], pair["chosen_id"]] == turn["shown"]


def test_the_page_loads_nothing_from_elsewhere(client: TestClient) -> None:
    for path in ("/", "/page.css", "/label.css", "/label.js"):
        answer = client.get(path)
        assert answer.status_code == 200 and answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "http://" not in answer.text and "https://" not in answer.text


def test_the_page_says_what_is_asked(client: TestClient) -> None:
    told = client.get("/api/page").json()
    assert told["title"] == "toy" and told["question"] == "Which image is better?"
    assert "no right answers" in told["instructions"]


def test_a_damaged_image_is_asked_about_no_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = make_dataset(tmp_path / "data")
    part = tmp_path / "data" / "samples" / "000000.parquet"
    damaged = spoil_image(part)
    asked = open_session(tmp_path / "answers", read_questions(dataset, size=2, count=50, seed=0))
    client = TestClient(label_app(dataset, asked, title="toy"), base_url="http://127.0.0.1:8080")
    seen: set[str] = set()
    told = client.post("/api/next", json={"annotator": "anna"}).json()
    while told["prompt"] is not None:
        seen |= set(told["shown"])
        said = {key: told[key] for key in ("number", "shown", "ticket")} | {"annotator": "anna", "answer": 0}
        told = client.post("/api/answer", json=said).json()
    assert seen and damaged not in seen
    assert f"left out: {dataset.root}: sample {damaged}: cannot decode this image" in capsys.readouterr().err
    asked.close()


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"host": "[::1"}, {"annotator": "anna"}, 403),
        ({"host": "127.0.0.1@evil.example"}, {"annotator": "anna"}, 403),
        ({"origin": "http://[::1"}, {"annotator": "anna"}, 403),
        ({}, {"annotator": "\ud800"}, 400),
        ({"host": "evil.example"}, {"annotator": "anna"}, 403),
        ({"origin": "http://evil.example"}, {"annotator": "anna"}, 403),
        ({"origin": "null"}, {"annotator": "anna"}, 403),
        ({"content-type": "text/plain"}, {"annotator": "anna"}, 415),
        ({}, {"annotator": ""}, 400),
        ({}, {"annotator": 3}, 400),
        ({}, {"annotator": "anna", "other": 1}, 400),
        ({}, {"annotator": "a" * 20_000}, 413),
        ({}, [], 400),
    ],
)
def test_what_the_page_never_sends_is_refused(
    client: TestClient, headers: dict[str, str], body: object, status: int
) -> None:
    answer = client.post(
        "/api/next", content=json.dumps(body), headers={"content-type": "application/json"} | headers
    )
    assert answer.status_code == status


def test_only_images_of_open_questions_are_served(client: TestClient) -> None:
    assert client.get("/image/" + "0" * 32).status_code == 404
    assert client.get("/image/..%2f..%2fppod.json").status_code == 404


def test_beyond_loopback_the_address_needs_its_token(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data")
    asked = open_session(
        tmp_path / "data" / "labels" / "people.answers", read_questions(dataset, size=2, count=5, seed=0)
    )
    app = label_app(dataset, asked, title="toy", token="secret")
    stranger = TestClient(app, base_url="http://labels.example")
    for path in ("/", "/label.js", "/?token=wrong", "/?token="):
        assert stranger.get(path).status_code == 403
    assert stranger.post("/api/next", json={"annotator": "anna"}).status_code == 403
    invited = TestClient(app, base_url="http://labels.example")
    first = invited.get("/?token=secret", follow_redirects=False)
    assert first.status_code == 303 and "HttpOnly" in first.headers["set-cookie"]
    assert invited.get("/").status_code == 200
    assert invited.post("/api/next", json={"annotator": "anna"}).status_code == 200
    asked.close()
