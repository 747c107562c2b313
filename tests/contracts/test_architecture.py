"""docs/architecture.md leads to what it names, and shows the layers that import-linter checks."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text("utf-8")
CODE = re.compile(r"`([^`]+)`")
CONTRACTS: list[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"][
    "importlinter"
]["contracts"]


def rows(heading: str) -> list[str]:
    """Return the table rows of a section, without its head."""
    section = PAGE.partition(f"## {heading}")[2].partition("\n## ")[0]
    return [line for line in section.splitlines() if line.startswith("|")][2:]


def test_it_leads_to_what_a_newcomer_looks_for() -> None:
    subjects = {row.split("|")[1].strip() for heading in ("Find it", "Add to it") for row in rows(heading)}
    wanted = {"Eq. 10, the loss", "the commit of a shard", "a reward", "an objective", "a label format"}
    assert wanted | {"a model family"} <= subjects


def test_every_path_exists() -> None:
    paths = [code for code in CODE.findall(PAGE) if "/" in code or code.endswith((".py", ".toml"))]
    assert len(paths) > 40
    assert [path for path in paths if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("row", rows("Find it"), ids=lambda row: row.split("|")[1].strip())
def test_every_name_is_defined_in_its_file(row: str) -> None:
    path, *names = CODE.findall(row)
    text = (ROOT / path).read_text("utf-8")
    assert names
    for name in names:
        pattern = (
            rf"^(?:def |class |){re.escape(name)}\b" if name.isidentifier() else re.escape(name.rstrip("]"))
        )
        assert re.search(pattern, text, re.MULTILINE), name


@pytest.mark.parametrize("row", rows("Add to it"), ids=lambda row: row.split("|")[1].strip())
def test_every_place_of_registration_is_defined_in_its_file(row: str) -> None:
    folder, name, path = CODE.findall(row)
    assert (ROOT / folder).is_dir()
    assert re.search(rf"^{name}\b.*=", (ROOT / path).read_text("utf-8"), re.MULTILINE)


@pytest.mark.parametrize("package", ["ppod_data", "ppod_train"])
def test_the_layers_are_those_of_import_linter(package: str) -> None:
    (contract,) = (one for one in CONTRACTS if one.get("containers") == [package])
    heading = next(line[3:] for line in PAGE.splitlines() if line.startswith(f"## {package}"))
    shown = [
        {
            path.removeprefix(f"{package}/").strip("/").removesuffix(".py")
            for path in CODE.findall(row.split(" | ")[0])
        }
        for row in rows(heading)
    ]
    assert shown == [set(layer.split(" | ")) for layer in contract["layers"]]
