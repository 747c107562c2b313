"""The labelling page in a real browser: two people at once, a killed server, then labels, pairs and training."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, ViewportSize, expect

from ppod_data.dataset.dataset import Dataset
from tests.cli.conftest import Made
from tests.support.accessibility import SCREENS, violations
from tests.support.browser import chromium
from tests.support.command import REPOSITORY, ran
from tests.support.toy import make_dataset

pytestmark = pytest.mark.long

_SERVER = ("--answers-per-question", "2", "--repeat-share", "0.2")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture
def data(made: Made, tmp_path: Path) -> Path:
    """A data set that a test may write to."""
    shutil.copytree(made.data, tmp_path / "data")
    return tmp_path / "data"


class Server:
    """`ppod-pair label` in a process of its own."""

    def __init__(self, data: Path, port: int = 0, options: Sequence[str] = _SERVER) -> None:
        folders = f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'cli'}"
        command = ["-m", "ppod_cli.pair", "label", data.name, "--port", str(port), "--json", *options]
        self.process = subprocess.Popen(
            [sys.executable, *command],
            cwd=data.parent,
            env=os.environ | {"PYTHONPATH": folders},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        first = self.process.stderr.readline()
        assert "Open http://" in first, first + self.process.stderr.read()
        self.url = first.split()[-1]
        self.port = urlsplit(self.url).port or 0

    @property
    def sent(self) -> str:
        """The address with its token, at a host that a browser finds without DNS."""
        return urlsplit(self.url)._replace(netloc=f"127.0.0.1:{self.port}").geturl()

    def end(self, how: signal.Signals) -> str:
        self.process.send_signal(how)
        return self.process.communicate(timeout=60)[0]


def enter(browser: Browser, server: Server, name: str) -> Page:
    page = browser.new_context().new_page()
    page.goto(server.sent)
    page.fill("#name", name)
    page.keyboard.press("Enter")
    return page


def asked(page: Page, number: int) -> None:
    """Wait until the page asks for the answer after `number` others, with its images there."""
    expect(page.locator("body")).to_have_attribute("data-ready", str(number), timeout=60_000)


def test_two_people_label_while_the_server_is_killed_and_the_labels_train(
    browser: Browser, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server(data)
    pages = [enter(browser, server, name) for name in ("Anna", "Bert")]
    keys = itertools.cycle(["ArrowLeft", "2", "t", "1", "ArrowRight", "s", "ArrowLeft"])
    for number in range(25):
        for page in pages:
            asked(page, number)
            page.keyboard.press(next(keys))
        if number == 12:  # both answers are on their way
            server.end(signal.SIGKILL)
            server = Server(data, server.port)
    for page in pages:
        asked(page, 25)
        page.keyboard.press("z")
        asked(page, 24)
        page.keyboard.press("ArrowLeft")
        asked(page, 25)
    told = json.loads(server.end(signal.SIGINT))
    journals = [
        path.read_text().splitlines() for path in sorted((data / "labels/people.answers").glob("*.jsonl"))
    ]
    assert [len(journal) for journal in journals] == [25, 25]
    assert told["num_answers"] + told["num_skipped"] == 50 and told["num_annotators"] == 2

    monkeypatch.chdir(tmp_path)
    done = ran("ppod-pair import data data/labels/people.answers --format ppod-label --name people --json")
    found = json.loads(done.stdout)
    assert found["num_records"] == 50 and found["num_preferences"] + found["num_ties"] == told["num_answers"]
    assert len(Dataset.open(data).pairs("people")) == found["num_pairs"] > 0
    ran(
        "ppod-train offline data --pairs people --out run --num-train-steps 2 --pairs-per-step 2 --eval-every 0"
    )
    assert (tmp_path / "run" / "policy").is_dir()


def test_a_server_that_is_killed_before_its_images_arrive_costs_no_answer(
    browser: Browser, data: Path
) -> None:
    server = Server(data)
    page = enter(browser, server, "Anna")
    asked(page, 0)
    page.route("**/image/*", lambda route: route.abort())
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#trouble")).to_contain_text("An image could not be loaded")
    page.keyboard.press("ArrowLeft")  # nothing is there to be chosen
    server.end(signal.SIGKILL)
    server = Server(data, server.port)
    page.unroute("**/image/*")
    asked(page, 1)
    expect(page.locator("#trouble")).to_be_hidden()
    assert json.loads(server.end(signal.SIGINT))["num_answers"] == 1


def test_a_response_that_is_cut_off_costs_no_answer(browser: Browser, data: Path) -> None:
    """As of a server that is killed after it has sent the headers."""
    server = Server(data)
    page = enter(browser, server, "Anna")
    asked(page, 0)
    page.route("**/api/answer", lambda route: route.fulfill(status=200, body='{"number": '), times=1)
    page.keyboard.press("ArrowLeft")
    asked(page, 1)
    expect(page.locator("#trouble")).to_be_hidden()
    assert json.loads(server.end(signal.SIGINT))["num_answers"] == 1


_REMOTE = ("--host", "0.0.0.0")


def test_an_open_page_and_a_sent_link_work_after_a_restart(browser: Browser, data: Path) -> None:
    server = Server(data, options=_REMOTE)
    link = server.sent
    page = enter(browser, server, "Anna")
    asked(page, 0)
    server.end(signal.SIGINT)
    page.keyboard.press("1")
    expect(page.locator("#trouble")).to_contain_text("No connection")
    server = Server(data, server.port, _REMOTE)
    asked(page, 1)
    expect(page.locator("#trouble")).to_be_hidden()
    assert server.sent == link
    page.reload()
    asked(page, 1)
    assert json.loads(server.end(signal.SIGINT))["num_answers"] == 1


def test_one_browser_labels_on_two_servers_of_a_host(browser: Browser, data: Path) -> None:
    servers = [Server(data, options=[*_REMOTE, "--name", name]) for name in ("one", "other")]
    page = enter(browser, servers[0], "Anna")
    asked(page, 0)
    other = page.context.new_page()
    other.goto(servers[1].sent)
    other.fill("#name", "Anna")
    other.keyboard.press("Enter")
    asked(other, 0)
    for number, tab in enumerate([page, other, page, other]):
        tab.keyboard.press("2")
        asked(tab, number // 2 + 1)
    assert [json.loads(server.end(signal.SIGINT))["num_answers"] for server in servers] == [2, 2]


def test_a_page_that_lost_its_token_names_the_way_out_and_loses_no_answer(
    browser: Browser, data: Path
) -> None:
    server = Server(data, options=_REMOTE)
    page = enter(browser, server, "Anna")
    asked(page, 0)
    page.context.clear_cookies()
    page.keyboard.press("1")
    expect(page.locator("#trouble")).to_contain_text("open the whole address that ppod-pair label printed")
    page.context.new_page().goto(server.sent)
    asked(page, 1)
    expect(page.locator("#trouble")).to_be_hidden()
    assert json.loads(server.end(signal.SIGINT))["num_answers"] == 1


SIZES = [(1280, 720), (1440, 900), (1920, 1080), (390, 844), (844, 390), (320, 480)]
BOXES = """() => [document.documentElement, ...document.querySelectorAll(".choice, .choice img, #others button")]
    .map(part => part.getBoundingClientRect()).map(box => [box.left, box.top, box.right, box.bottom])"""


def boxes_that_fit(page: Page, screen: tuple[int, int]) -> list[list[float]]:
    """Return the boxes of the page and its parts, as soon as the page has arranged its images for a new size."""
    boxes: list[list[float]] = []
    for _ in range(200):
        boxes = page.evaluate(BOXES)
        if all(right <= screen[0] and bottom <= screen[1] for _, _, right, bottom in boxes):
            break
        page.wait_for_timeout(50)
    return boxes


@pytest.mark.parametrize(
    ("count", "height", "width"), [(2, 288, 512), (2, 512, 288), (4, 256, 256), (9, 64, 96)]
)
def test_all_images_and_buttons_fit_on_every_screen(
    browser: Browser, tmp_path: Path, count: int, height: int, width: int
) -> None:
    """Also below a prompt of a paragraph."""
    sizes = {"height": height, "width": width, "latent_shape": (4, height // 8, width // 8)}
    prompts = ("a cat and a dog", "a cat and a dog, then " * 20 + "a wolf")
    make_dataset(tmp_path / "data", prompts=prompts, num_images_per_prompt=9, **sizes)
    server = Server(tmp_path / "data", options=["--images-per-question", str(count)])
    page = enter(browser, server, "Anna")
    for number in range(2):
        asked(page, number)
        for screen in SIZES:
            page.set_viewport_size({"width": screen[0], "height": screen[1]})
            expect(page.locator("main")).to_have_css("height", f"{screen[1]}px")
            whole, *parts = boxes_that_fit(page, screen)
            assert whole == [0, 0, *screen] and len(parts) == 2 * count + 3
            for left, top, right, bottom in parts:
                assert left >= 0 and top >= 0 and right <= screen[0] and bottom <= screen[1]
                assert min(right - left, bottom - top) >= 30
            areas = [(right - left) * (bottom - top) for left, top, right, bottom in parts]
            assert sum(sorted(areas)[3:]) >= 0.5 * screen[0] * screen[1]  # images and their frames
        page.keyboard.press("s")
    assert violations(page) == []
    server.end(signal.SIGINT)


def test_ones_own_question_is_asked_and_names_the_labels(browser: Browser, data: Path) -> None:
    question, how = "Which <b>fur</b> is best?", "Look at the fur alone."
    words = ("--question", question, "--instructions", how, "--dimension", "fur")
    server = Server(data, options=["--images-per-question", "4", *words])
    page = enter(browser, server, "Anna")
    asked(page, 0)
    expect(page).to_have_title(f"ppod: {question}")
    expect(page.locator("#ask .question")).to_have_text(question)
    page.click("#help")
    expect(page.locator("#how .instructions")).to_have_text(how)
    page.keyboard.press("1")  # the question is behind the instructions
    page.keyboard.press("Escape")
    asked(page, 0)
    page.keyboard.press("3")
    asked(page, 1)
    assert json.loads(server.end(signal.SIGINT))["num_answers"] == 1
    ran(f"ppod-pair import {data} {data}/labels/people.answers --format ppod-label --name people")
    assert set(Dataset.open(data).labels("people")["dimension"].to_pylist()) == {"fur"}


def test_names_that_differ_in_capitals_are_one_person(browser: Browser, data: Path) -> None:
    server = Server(data, options=["--answers-per-question", "3"])
    page = enter(browser, server, "Ada Lovelace")
    asked(page, 0)
    page.keyboard.press("1")
    asked(page, 1)
    again = enter(browser, server, " ada  LOVELACE")
    asked(again, 1)
    sources = [one.locator(".choice img").first.get_attribute("src") for one in (page, again)]
    assert sources[0] == sources[1]
    again.keyboard.press("1")
    asked(again, 2)
    told = json.loads(server.end(signal.SIGINT))
    assert (told["num_answers"], told["num_annotators"]) == (2, 1)


PRESS_AGAIN = """key => new MutationObserver((_, observer) => {
    document.dispatchEvent(new KeyboardEvent("keydown", { key }));
    observer.disconnect();
}).observe(document.getElementById("images"), { childList: true })"""
"""Presses a key the moment that the next question's images are put in place."""


def test_a_key_that_is_pressed_once_more_is_meant_for_the_last_question(browser: Browser, data: Path) -> None:
    server = Server(data, options=[])
    page = enter(browser, server, "Anna")
    for number in range(3):
        asked(page, number)
        page.evaluate(PRESS_AGAIN, "1")
        page.keyboard.press("1")
    asked(page, 3)
    page.evaluate(PRESS_AGAIN, "z")
    page.keyboard.press("z")
    asked(page, 2)
    assert json.loads(server.end(signal.SIGINT))["num_answers"] == 2


def test_a_question_is_answered_by_tab_and_enter_and_the_focus_is_kept(browser: Browser, data: Path) -> None:
    server = Server(data, options=["--num-questions", "3"])
    page = enter(browser, server, "Anna")
    focused = page.locator(":focus")
    asked(page, 0)
    expect(focused).to_have_id("prompt")  # where a screen reader goes on, and no image is preselected
    page.keyboard.press("Tab")
    expect(focused).to_have_id("choice-1")
    page.keyboard.press("Tab")
    page.keyboard.down("Enter")
    asked(page, 1)
    expect(focused).to_have_id("choice-2")
    for _ in range(3):
        page.keyboard.down("Enter")  # a held key
    page.keyboard.up("Enter")
    asked(page, 1)
    page.reload()
    asked(page, 1)
    expect(focused).to_have_id("choice-2")
    page.keyboard.press("z")
    asked(page, 0)
    expect(focused).to_have_id("choice-2")
    page.locator("#skip").focus()
    page.keyboard.press("Enter")
    asked(page, 1)
    expect(focused).to_have_id("skip")
    page.keyboard.press("Enter")
    asked(page, 2)
    page.keyboard.press("2")
    asked(page, 3)
    expect(focused).to_have_id("thanks")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # Back
    asked(page, 2)
    expect(focused).to_have_id("prompt")
    told = json.loads(server.end(signal.SIGINT))
    assert (told["num_answers"], told["num_skipped"]) == (0, 2)


def test_the_page_works_by_touch_on_a_phone(browser: Browser, data: Path) -> None:
    server = Server(data)
    size: ViewportSize = {"width": 390, "height": 760}
    page = browser.new_context(viewport=size, has_touch=True, is_mobile=True).new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(server.url)
    page.fill("#name", "Cleo <script>alert(1)</script>")
    page.tap("button.main")
    asked(page, 0)
    for choice in page.locator(".choice, #tie, #skip").all():
        box = choice.bounding_box()
        assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= size["width"]
        assert box["y"] + box["height"] <= size["height"]
    page.locator(".choice").nth(1).tap()
    asked(page, 1)
    page.tap("#tie")
    asked(page, 2)
    assert errors == []
    assert json.loads(server.end(signal.SIGINT))["num_answers"] == 2


def test_the_page_passes_the_rules_of_accessibility(browser: Browser, data: Path) -> None:
    """Its entry and its questions, on a desktop and on a phone, in light and dark."""
    server = Server(data)
    for scheme, width in SCREENS:
        context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 844})
        page = context.new_page()
        page.goto(server.url)
        page.locator("#name").wait_for()
        assert violations(page) == []
        page.fill("#name", f"{scheme} {width}")
        page.keyboard.press("Enter")
        asked(page, 0)
        assert violations(page) == []
        context.close()
    server.end(signal.SIGINT)
