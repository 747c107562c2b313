"""Hooks of mkdocs: navigation from the index, pages outside docs/, and generated references.

docs/README.md is the only index: its sections are the navigation. The READMEs, the notebooks, the recipes and the
changelog are copied into the site, and links between repository files become links between pages.
"""

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from command_pages import COMMANDS, command_page
from python_pages import PACKAGES, python_page

ROOT = Path(__file__).parents[2]
INDEX = "docs/README.md"
LINK = re.compile(r"\]\(([^)\s#:]+)(#[^)\s]*)?\)")

PROJECT = [
    *("CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "THIRD_PARTY_NOTICES.md"),
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "recipes").iterdir()),
]
NOTEBOOKS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "examples").glob("*.ipynb"))
PLACES = {
    "README.md": "index.md",
    INDEX: "pages.md",
    **{path: f"project/{path}" for path in PROJECT},
    **{path: f"notebooks/{Path(path).stem}.md" for path in NOTEBOOKS},
    **{f"{package}/__init__.py": f"python/{package}.md" for package in PACKAGES},
}
"""Repository files that have another place in the site than their path below docs/."""
ORIGINS = {place: path for path, place in PLACES.items()}


def on_config(config: Any) -> Any:
    """Set the navigation."""
    config.nav = navigation()
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the files outside docs/ and the generated pages."""
    from mkdocs.structure.files import File

    files.remove(files.get_file_from_path("README.md"))
    for path, place in PLACES.items():
        text = (ROOT / path).read_text("utf-8")
        if path in NOTEBOOKS:
            text = notebook_page(text)
        elif path.endswith("__init__.py"):
            text = python_page(path.partition("/")[0])
        files.append(File.generated(config, place, content=text))
    for name in COMMANDS:
        files.append(File.generated(config, f"commands/{name}.md", content=command_page(name)))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Point links between repository files to the pages of the site."""
    place = page.file.src_uri
    if place.startswith(("decisions/", "project/")):
        page.meta["search"] = {"boost": 0.5}
    return rewrite_links(markdown, ORIGINS.get(place, f"docs/{place}"), place)


def rewrite_links(markdown: str, origin: str, place: str) -> str:
    """Return the text of the repository file `origin` with its links as they are on the page `place`.

    A link that leads to no file stays as it is, for the strict build to refuse.
    """

    def rewritten(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(origin), match[1]))
        if not (ROOT / target).is_file():
            return match[0]
        there = PLACES.get(target, target.removeprefix("docs/"))
        return f"]({posixpath.relpath(there, posixpath.dirname(place))}{match[2] or ''})"

    return LINK.sub(rewritten, markdown)


def navigation() -> list[dict[str, Any]]:
    """Return the sections and links of the index, and the sections of generated pages before its results."""
    parts = re.split(r"^## (.+)$", (ROOT / INDEX).read_text("utf-8"), flags=re.MULTILINE)
    sections = {
        title: [{name: link} for name, link in re.findall(r"^- \[(.+?)\]\((.+?)\)", body, re.MULTILINE)]
        for title, body in zip(parts[1::2], parts[2::2], strict=True)
    }
    generated = {
        "Commands": [f"commands/{name}.md" for name in COMMANDS],
        "Python": [f"python/{package}.md" for package in PACKAGES],
        "Notebooks": [PLACES[path] for path in NOTEBOOKS],
    }
    nav: list[dict[str, Any]] = [{"Home": "index.md"}]
    for title, pages in sections.items():
        if title == "Reference":
            nav += [{name: group} for name, group in generated.items()]
        nav.append({title: pages})
    return nav


def notebook_page(text: str) -> str:
    """Return the cells of a notebook as Markdown."""
    cells = []
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        cells.append(f"```python\n{source}\n```" if cell["cell_type"] == "code" else source)
    return "\n\n".join(cells) + "\n"
