"""What is installed is what is declared, pinned, typed and small."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
MISSION = {
    "torch",
    "diffusers",
    "webdataset",
    "datasets",
    "pyarrow",
    "image-reward",
    "typer",
    "accelerate",
}
PIN = re.compile(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.!+_-]+)")
MEGABYTE = 10**6


def pins() -> dict[str, str]:
    """Canonical name to version, of every line of constraints.txt that is no comment."""
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    matches = {line: PIN.fullmatch(line) for line in lines if line and not line.startswith("#")}
    assert None not in matches.values(), "constraints.txt has lines `name==version` only, no paths or URLs"
    return {canonicalize_name(match[1]): match[2] for match in matches.values() if match}


def installed_requirements(names: list[str], extras: dict[str, set[str]]) -> dict[str, str]:
    """Canonical name to installed version of everything that `names` need, directly or not.

    A requirement that is not installed (another platform's, say) is left out with all that it needs.
    """
    found: dict[str, str] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue
        found[canonicalize_name(name)] = package.version
        for text in package.requires or []:
            need = Requirement(text)
            wanted = extras.get(name, set()) | {""}
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in wanted):
                known = need.name in extras and need.extras <= extras[need.name]
                if canonicalize_name(need.name) not in found or not known:
                    new = need.extras - extras.get(need.name, set())
                    extras.setdefault(need.name, set()).update(need.extras)
                    if canonicalize_name(need.name) not in found or new:
                        waiting.append(need.name)
    return found


def test_the_mission_s_packages_are_ordinary_dependencies() -> None:
    names = {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]}
    assert names >= MISSION


def test_dependencies_have_ranges_not_pins() -> None:
    for text in PROJECT["dependencies"]:
        operators = {specifier.operator for specifier in Requirement(text).specifier}
        assert operators and "==" not in operators, text


def test_every_installed_dependency_is_pinned_at_its_version() -> None:
    installed = installed_requirements(["ppod"], {"ppod": {"dev"}})
    del installed["ppod"]
    pinned = pins()
    assert {name: pinned.get(name) for name in installed} == installed


def test_every_package_says_that_it_is_typed() -> None:
    for package in ("ppod_data", "ppod_train", "cli/ppod_cli"):
        assert (ROOT / package / "py.typed").is_file(), package


def test_licences_are_in_the_package() -> None:
    assert PROJECT["license"] == "Apache-2.0"
    for name in PROJECT["license-files"]:
        assert (ROOT / name).stat().st_size > 1000, name


def test_the_changelog_knows_this_version() -> None:
    assert f"## Release {PROJECT['version']} " in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_the_description_on_a_package_index_has_no_relative_link() -> None:
    pattern = re.compile(r"\]\((?!https?:)|<img")
    assert pattern.search((ROOT / "README.md").read_text("utf-8"))
    command = [sys.executable, "-m", "hatch_fancy_pypi_readme", "pyproject.toml"]
    text = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert not pattern.search(text)
    assert "ppod-train offline" in text and "from ppod_train import" in text


def test_no_file_in_the_repository_is_large() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    large = {str(path): path.stat().st_size for path in paths if path.is_file()}
    assert {name: size for name, size in large.items() if size > 5 * MEGABYTE} == {}


def test_the_embedded_world_is_at_most_8_mb() -> None:
    data = [path for path in (ROOT / "ppod_data" / "scenes").rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in data if path.suffix not in (".py", ".pyc"))
    assert 0 < size <= 8 * MEGABYTE


def test_the_dockerfile_copies_what_the_wheel_is_built_from() -> None:
    lines = (ROOT / "Dockerfile").read_text("utf-8").splitlines()
    copied = {
        name for line in lines if line.startswith("COPY ") for name in line.removeprefix("COPY ").split()[:-1]
    }
    build = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["build"]["targets"]
    needed = {package.split("/")[0] for package in build["wheel"]["packages"]}
    assert needed | {"pyproject.toml", "README.md", *PROJECT["license-files"]} <= copied
    assert all((ROOT / name).exists() for name in copied)


def test_the_workflow_runs_what_ci_runs() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8"))["jobs"]
    commands = {step["run"] for job in jobs.values() for step in job["steps"] if "run" in step}
    assert commands == {".ci/run", "make release"}
    for command in commands:
        first, *targets = command.split()
        if first == "make":
            assert all(f"\n{target}:" in (ROOT / "Makefile").read_text("utf-8") for target in targets)
        else:
            assert (ROOT / first).is_file()


def test_every_hook_before_a_commit_is_a_declared_tool() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"][0]["hooks"]
    tools = {hook["entry"].split()[0].removeprefix(".venv/bin/") for hook in hooks}
    assert tools == {"ruff", "mypy", "lint-imports"}
    assert all((ROOT / ".venv" / "bin" / tool).is_file() for tool in tools)
