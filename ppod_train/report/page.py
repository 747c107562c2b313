"""Self-contained HTML file about one or several runs, which loads nothing from a network.

All text from a run (prompts, names, settings) is escaped. The page's own policy blocks everything that is not in the
file.
"""

from collections.abc import Mapping, Sequence
from itertools import count
from os import PathLike
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from ppod_data.html.charts.lines import NUM_COLOURS
from ppod_data.html.page import document, join
from ppod_data.storage.files import atomic_write
from ppod_data.storage.folder_kinds import check_html, check_not_inside
from ppod_data.storage.json_reader import record_of
from ppod_data.storage.real_folders import settled
from ppod_data.support.formatting import counted
from ppod_train.report.comparison import comparison, objective, settings_table
from ppod_train.report.curves import learning_curves, over_training
from ppod_train.report.meanings import meanings
from ppod_train.report.runs import Run, read_run
from ppod_train.report.sections import banner, by_prompt, headline, images_table, num_prompts
from ppod_train.report.stages import stages_section, time_chart
from ppod_train.report.timesteps import timestep_curves
from ppod_train.report.viewer import viewer

_ADVICE = "its files were edited, or are of another version: get the folder again"
_OPEN_PROMPTS = 3
"""With more prompts the rewards by prompt start closed."""
_ASSETS = Path(__file__).parent / "assets"


AnyFolder = str | PathLike[str]


def write_report(runs: AnyFolder | Sequence[AnyFolder], out: AnyFolder | None = None) -> Path:
    """Write the report on runs as one HTML file, and return the file.

    >>> from ppod_train import write_report
    >>> write_report("run").name
    'report.html'

    Args:
        runs: folders of training runs, offline and online, finished or not, and of evaluations; in the page's order.
        out: the file; None for report.html in the folder of a single run, or in this folder for several.

    Raises:
        ConfigError: a folder is not a run, or `out` is a file of another kind, or inside a folder where a data set,
            run or evaluation keeps its own files.
        DamagedError: a record has other content than a run writes.
    """
    folders = [Path(run) for run in ([runs] if isinstance(runs, str | PathLike) else runs)]
    if out is not None:
        check_not_inside(Path(out), option="--out")
    else:
        out = folders[0] / "report.html" if len(folders) == 1 else "report.html"
    out = settled(Path(out))
    check_html(out, option="--out")
    read = [_read(folder) for folder in folders]
    names = distinct_names(folders)
    title = names[0] if len(names) == 1 else counted(len(names), "run")
    sections = []
    if len(read) > 1:
        sections.append(_contents({f"run-{number}": name for number, name in enumerate(names)}))
        with record_of(folders[0].parent, _ADVICE):
            sections.append(comparison(read, names))
    for number, (run, name, folder) in enumerate(zip(read, names, folders, strict=True)):
        with record_of(folder, _ADVICE):
            sections.append(_section(run, name, number, alone=len(read) == 1))
    atomic_write(out, page(f"ppod: {title}", title, join(sections)).encode())
    return out


def _read(folder: Path) -> Run:
    with record_of(folder, _ADVICE):
        return read_run(folder)


def page(title: str, heading: str, body: Markup) -> str:
    """Return the whole document around the HTML `body`."""
    return document(
        title=title,
        eyebrow="ppod report",
        heading=heading,
        body=body,
        style=_ASSETS / "report.css",
        script=_ASSETS / "report.js",
    )


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """Return the shortest ends of the folders' paths that differ, all of as many parts; a repeated folder is numbered.

    >>> distinct_names([Path("/a/seed-0/run"), Path("/b/seed-0/run"), Path("/b/seed-0/run")])
    ['a/seed-0/run', 'b/seed-0/run', 'b/seed-0/run (2)']
    """
    paths = [folder.resolve().parts[1:] for folder in folders]
    names: list[str] = []
    for length in range(1, max(map(len, paths)) + 1):
        names = ["/".join(path[-length:]) for path in paths]
        if len(set(names)) == len(set(paths)):
            break
    return _numbered(names)


def _numbered(names: Sequence[str]) -> list[str]:
    """Return the names, of which repeated ones end in the first free number: "run", "run (2)"."""
    numbered: list[str] = []
    for name in names:
        free = (f"{name} ({number})" for number in count(2))
        taken = {*names, *numbered}
        numbered.append(name if name not in numbered else next(text for text in free if text not in taken))
    return numbered


class _Part(NamedTuple):
    """A titled part of a run's section."""

    title: str
    body: Markup
    is_open: bool = True


def _section(run: Run, name: str, number: int, *, alone: bool) -> Markup:
    """Render a run: verdict, contents and metrics, then its parts, of which the details start closed."""
    parts = [
        _Part("Stages", stages_section(run) if run.online else Markup()),
        _Part("Over training", Markup() if run.online else over_training([run], [name])),
        _Part("Samples", viewer(run.evaluations, run.before, run.after or run.before)),
        _Part("Images", images_table(run)),
        _Part("Reward by prompt", by_prompt(run), num_prompts(run) <= _OPEN_PROMPTS),
        _Part("Learning curves", learning_curves(run, objective(run)), False),
        _Part(_timestep_title(run), timestep_curves(*run.last_training), False),
        _Part("Time", time_chart(run), False),
        _Part("Settings", settings_table(run), False),
        _Part("What the numbers mean", meanings(), False),
    ]
    shown = {f"run-{number}-{index}": part for index, part in enumerate(parts) if part.body}
    colour = number % NUM_COLOURS
    head = (
        Markup() if alone else Markup('<h2 class="key c{}" id="run-{}">{}</h2>').format(colour, number, name)
    )
    contents = _contents({anchor: part.title for anchor, part in shown.items()})
    body = join(_rendered(anchor, part) for anchor, part in shown.items())
    return Markup('<section class="run"{}>{}</section>').format(
        _colour(colour), head + banner(run) + contents + headline(run) + body
    )


def _colour(number: int) -> Markup:
    """Make the first colour of a section that of its run, which the comparison gives it as well."""
    return Markup(' style="--c0: var(--c{})"').format(number) if number else Markup()


def _contents(titles: Mapping[str, str]) -> Markup:
    """Render links to parts of the page, by their identifiers."""
    links = join(Markup('<a href="#{}">{}</a>').format(anchor, title) for anchor, title in titles.items())
    return Markup('<nav class="contents" aria-label="Contents">{}</nav>').format(links)


def _rendered(anchor: str, part: _Part) -> Markup:
    if part.is_open:
        return Markup('<h3 id="{}">{}</h3>{}').format(anchor, part.title, part.body)
    return Markup('<details class="part" id="{}"><summary><h3>{}</h3></summary>{}</details>').format(
        anchor, part.title, part.body
    )


def _timestep_title(run: Run) -> str:
    trained = [stage.number for stage in run.stages if stage.run_record or stage.metrics]
    return f"By timestep, stage {trained[-1]}" if trained else "By timestep"
