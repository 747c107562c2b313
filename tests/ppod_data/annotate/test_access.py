"""Access to the labelling page: the token, its cookie, and what a rejected request reads."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from ppod_data.annotate.app import label_app
from ppod_data.annotate.questions import read_questions
from ppod_data.annotate.session import open_session
from tests.support.toy import make_dataset

HOST = "http://labels.example"


@contextmanager
def app(folder: Path, token: str | None) -> Iterator[Starlette]:
    dataset = make_dataset(folder / "data")
    session = open_session(folder / "answers", read_questions(dataset, size=2, count=5, seed=0))
    yield label_app(dataset, session, title="toy", token=token)
    session.close()


@pytest.mark.parametrize(
    ("token", "headers", "status", "told"),
    [
        ("secret", {}, 403, "open the whole address that ppod-pair label printed, with its token"),
        ("secret", {"origin": "http://evil.example"}, 403, "comes from another site"),
        ("secret", {"content-type": "text/plain"}, 415, "send JSON"),
        (None, {}, 403, "open the address that ppod-pair label printed"),
    ],
)
def test_the_page_can_show_why_its_request_was_rejected(
    tmp_path: Path, token: str | None, headers: dict[str, str], status: int, told: str
) -> None:
    with app(tmp_path, token) as labels:
        client = TestClient(labels, base_url=HOST)
        reply = client.post("/api/next", json={"annotator": "anna"}, headers=headers)
        assert reply.status_code == status and told in reply.json()["error"]


def test_a_browser_has_access_to_two_sessions_of_one_host(tmp_path: Path) -> None:
    with ExitStack() as stack:
        apps = [stack.enter_context(app(tmp_path / name, name)) for name in ("one", "other")]
        clients = [TestClient(each, base_url=f"{HOST}:{8080 + i}") for i, each in enumerate(apps)]
        clients[1].cookies.jar = clients[0].cookies.jar  # a browser sends cookies to all ports of a host
        for client, token in zip(clients, ("one", "other"), strict=True):
            assert client.get(f"/?token={token}").status_code == 200
        for client in clients:
            assert client.post("/api/next", json={"annotator": "anna"}).status_code == 200
