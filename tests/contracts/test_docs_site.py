"""The docs site: built strictly, complete, and without a link that leads nowhere or a resource of another host."""

import os
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

import pytest
from typer.main import get_command

import ppod_data
import ppod_train
from tests.support.accessibility import violations_by_screen
from tests.support.browser import chromium

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
COMMANDS = ("gen", "score", "pair", "train", "data")
LOADED = {("script", "src"), ("img", "src"), ("link", "href"), ("iframe", "src")}


class Page(HTMLParser):
    """The anchors, links and loaded resources of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.resources: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.anchors.add(value)
            if tag == "a" and name == "href" and value:
                self.links.append(value)
            if (tag, name) in LOADED and value:
                self.resources.append(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'cli'}"},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path.read_text("utf-8")) for path in sorted(site.rglob("*.html"))}


def targets(site: Path, pages: dict[Path, Page]) -> Iterator[tuple[str, Path, str]]:
    """Yield every link inside the site: where it is and what it is, the file, and the anchor."""
    for path, page in pages.items():
        if path.name == "404.html":  # its links start at the host
            continue
        for link in [*page.links, *page.resources]:
            parts = urlsplit(link)
            if parts.scheme in ("http", "https", "mailto", "data"):
                continue
            target = path if not parts.path else Path(os.path.normpath(path.parent / unquote(parts.path)))
            yield f"{path.relative_to(site)}: {link}", target, unquote(parts.fragment)


def test_internal_links_and_anchors_resolve(site: Path, pages: dict[Path, Page]) -> None:
    found = list(targets(site, pages))
    assert len(found) > 1000
    broken = [
        name
        for name, target, anchor in found
        if not target.is_file() or (anchor and target in pages and anchor not in pages[target].anchors)
    ]
    assert broken == []


def test_no_page_loads_anything_from_another_host(pages: dict[Path, Page]) -> None:
    foreign = [
        (path.name, url)
        for path, page in pages.items()
        for url in page.resources
        if urlsplit(url).scheme in ("http", "https") or url.startswith("//")
    ]
    assert foreign == []


def test_every_document_is_a_page(site: Path, pages: dict[Path, Page]) -> None:
    documents = {path.relative_to(ROOT / "docs").with_suffix("") for path in (ROOT / "docs").rglob("*.md")}
    built = {path.relative_to(site).with_suffix("") for path in pages}
    assert {path for path in documents if path.name != "README"} <= built
    assert {Path("index"), Path("pages"), Path("decisions/index"), Path("project/CONTRIBUTING")} <= built


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_a_command_has_an_anchor(name: str, site: Path, pages: dict[Path, Page]) -> None:
    root = get_command(import_module(f"ppod_cli.{name}").commands)
    commands = {f"ppod-{name}-{sub}": command for sub, command in getattr(root, "commands", {}).items()}
    anchors = pages[site / f"commands/ppod-{name}.html"].anchors
    for prefix, command in (commands or {f"ppod-{name}": root}).items():
        visible = [param.name for param in command.params if not getattr(param, "hidden", False)]
        assert visible and {f"{prefix}-{option}" for option in visible} <= anchors


@pytest.mark.parametrize("package", [ppod_data, ppod_train], ids=lambda package: package.__name__)
def test_every_public_name_has_an_entry(package: ModuleType, site: Path, pages: dict[Path, Page]) -> None:
    name = package.__name__
    anchors = pages[site / f"python/{name}.html"].anchors
    last = {anchor.rpartition(".")[2] for anchor in anchors}
    assert set(package.__all__) - last - {"OBJECTIVES"} == set()


def test_pages_pass_the_rules_of_accessibility(site: Path) -> None:
    """The theme's wide tables scroll; chromium lets a keyboard do so, which axe-core does not know."""
    with chromium() as browser:
        for name in ("index.html", "commands/ppod-gen.html", "python/ppod_train.html", "paper_map.html"):
            url = (site / name).as_uri()
            broken = violations_by_screen(browser, url, without="scrollable-region-focusable")
            assert broken == {}, name
