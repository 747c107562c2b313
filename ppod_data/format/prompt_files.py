"""Prompt lists in common formats: one prompt a line, CSV, TSV, JSON, JSON Lines or Parquet.

    for source, text in read_prompt_file(Path("prompts.jsonl")):
        print(source, text)  # prompts.jsonl:1 a cat

The suffix decides the format, and the content must match: a table without its suffix is rejected, not read as
text. Lines are read one by one, so memory is bounded by the longest line.
"""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ppod_data.errors import ConfigError
from ppod_data.storage.files import refuse_pointer

_MAX_LINE = 16 << 20
_MAX_JSON = 256 << 20
_PARQUET_ROWS = 1024
_BOM = b"\xef\xbb\xbf"
_SYNONYMS = ("caption", "text", "prompts", "captions")
_SHOWN_COLUMNS = 12
_DELIMITERS = {".csv": (",", ";", "\t"), ".tsv": ("\t",), ".tab": ("\t",)}
_JSON_LINES = (".jsonl", ".ndjson")
_FORMS = "one prompt a line (.txt), .csv, .tsv, .json, .jsonl or .parquet"
_OTHER_FORMS = {
    *(".yaml", ".yml", ".toml", ".xml", ".html", ".py", ".pkl", ".pickle", ".npy", ".npz", ".pt", ".pth"),
    *(".xls", ".xlsx", ".ods", ".doc", ".docx", ".odt", ".rtf", ".pdf", ".arrow", ".feather", ".safetensors"),
    *(".gz", ".bz2", ".xz", ".zst", ".zip", ".7z", ".tar", ".db", ".sqlite"),
}
_MAGIC = {b"PK\x03\x04": "a spreadsheet or zip archive", b"\x1f\x8b": "compressed by gzip", b"%PDF": "a PDF"}
_MAGIC |= {
    b"\x28\xb5\x2f\xfd": "compressed by zstd",
    b"ARROW1": "an Arrow file",
    b"BZh": "compressed by bzip2",
}
# A line that begins a JSON list or object, and not a prompt such as "[photo] of a cat" or "{red|blue} cat".
_JSON_START = re.compile(r'[\[{][\[{\s]*("|$)')
_HEADERS = {"prompt", "prompts", "caption"}


def read_prompt_file(file: Path, column: str | None = None) -> Iterator[tuple[str, str]]:
    """Yield each prompt of a file with its source: "prompts.csv:3", a line, row or entry.

    Args:
        file: the prompt list.
        column: the column or key that holds the prompts. By default `prompt` in any case, or the only one of
            `caption` and `text`.

    Raises:
        ConfigError: the file cannot be read, is empty, has another format or encoding, or has no such column.
        DamagedError: a Git LFS pointer.
    """
    suffix = file.suffix.lower()
    if suffix in _OTHER_FORMS:
        raise ConfigError(f"{file}: {suffix} is not a format of a prompt list: give {_FORMS}")
    try:
        with file.open("rb") as stream:
            yield from _checked(file, _entries(file, suffix, stream, column))
    except OSError as error:
        raise ConfigError(
            f"{file}: cannot read the prompts: {error.strerror or error}: check the path"
        ) from error


def _entries(
    file: Path, suffix: str, stream: io.BufferedReader, column: str | None
) -> Iterator[tuple[str, str]]:
    head = stream.peek(64)
    refuse_pointer(file, head)
    if head.startswith(b"PAR1") or suffix in (".parquet", ".pq"):
        return _parquet(file, column)
    for magic, description in _MAGIC.items():
        if head.startswith(magic):
            raise ConfigError(f"{file}: {description}: give {_FORMS}")
    lines = _numbered(file, stream)
    if suffix == ".json":
        return _json(file, lines, column)
    texts = _decoded(file, lines)
    if suffix in _JSON_LINES:
        return _json_lines(file, texts, column)
    if suffix in _DELIMITERS:
        return _table(file, texts, _DELIMITERS[suffix], column)
    if column is not None:
        raise ConfigError(
            f"{file}: --prompt-column {column}: a list of one prompt a line has no columns: leave it out"
        )
    return _text(file, texts)


def _checked(file: Path, entries: Iterator[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    count = 0
    for entry in entries:
        count += 1
        yield entry
    if not count:
        raise ConfigError(f"{file}: no prompts in this file: write one prompt a line")


def _numbered(file: Path, stream: io.BufferedReader) -> Iterator[tuple[int, bytes]]:
    number = 0
    limit = _MAX_JSON if file.suffix.lower() == ".json" else _MAX_LINE
    while line := stream.readline(limit + 1):
        number += 1
        if len(line) > limit:
            raise ConfigError(
                f"{file}:{number}: a line of more than {limit >> 20} MiB: give one prompt a line"
            )
        yield number, line.removeprefix(_BOM) if number == 1 else line


def _decoded(file: Path, lines: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, str]]:
    for number, line in lines:
        try:
            yield number, line.decode()
        except UnicodeDecodeError as error:
            raise ConfigError(f"{file}:{number}: not UTF-8: save the file in this encoding") from error


def _text(file: Path, lines: Iterator[tuple[int, str]]) -> Iterator[tuple[str, str]]:
    """Yield one prompt a line. A table or JSON without its suffix is rejected."""
    first = True
    for number, line in lines:
        if not (text := line.strip()):
            continue
        source = f"{file}:{number}"
        if first and (table := _looks_like_table(text)):
            raise ConfigError(f"{source}: {table}, or remove this line if each line is a prompt")
        if _looks_like_json(text):
            raise ConfigError(
                f"{source}: JSON, not one prompt a line: name the file .json, or .jsonl if each line is an object, to "
                "read its prompt column"
            )
        if "\t" in text:
            raise ConfigError(
                f"{source}: the prompt holds the control character U+0009, a tab: remove it, or name a table of "
                "columns .tsv"
            )
        first = False
        yield source, line


def _looks_like_table(header: str) -> str | None:
    """Describe the table whose header a first line is; return None for a prompt."""
    tabs = [cell.strip().lower() for cell in header.split("\t")]
    if len(tabs) > 1 and _HEADERS.union(_SYNONYMS).intersection(tabs):
        return "the header of a table of columns separated by tabs: name the file .tsv"
    for delimiter in ",;":
        cells = [cell.strip().strip('"').lower() for cell in header.split(delimiter)]
        if _HEADERS.intersection(cells):
            return "the header of a table: name the file .csv to read its prompt column"
    return None


def _looks_like_json(text: str) -> bool:
    if text[0] not in "[{":
        return False
    if _JSON_START.match(text):
        return True
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _table(
    file: Path, lines: Iterator[tuple[int, str]], delimiters: Sequence[str], column: str | None
) -> Iterator[tuple[str, str]]:
    """Yield the prompt column of CSV or TSV with a header. A cell that spans lines is rejected as a stray quote."""
    number, header = next(((number, line) for number, line in lines if line.strip()), (0, ""))
    if not header:
        return
    delimiter = max(delimiters, key=header.count)
    current = [number]

    def remaining() -> Iterator[str]:
        yield header
        for current[0], line in lines:
            yield line

    try:
        reader = csv.reader(remaining(), delimiter=delimiter, strict=True)
        names = [name.strip() for name in next(reader)]
        index = _choose(file, names, column)
        end = current[0]
        for row in reader:
            start, end = end + 1, current[0]
            if not row:
                continue
            if start != end:
                raise ConfigError(
                    f"{file}:{start}: a quoted cell continues on line {end}: remove the stray quote or the line breaks"
                )
            if len(row) != len(names):
                raise ConfigError(
                    f"{file}:{end}: {len(row)} cells, but the header has {len(names)} columns: quote cells that hold "
                    f"{delimiter!r}"
                )
            yield f"{file}:{end}", row[index]
    except csv.Error as error:
        raise ConfigError(
            f"{file}:{current[0]}: not a table ({error}): fix the quotes of this line"
        ) from error


def _json_lines(
    file: Path, lines: Iterator[tuple[int, str]], column: str | None
) -> Iterator[tuple[str, str]]:
    """Yield the prompt of each line: one object, or one text."""
    key = column
    for number, line in lines:
        if not line.strip():
            continue
        value = _parsed(f"{file}:{number}", line)
        if isinstance(value, list):
            raise ConfigError(f"{file}:{number}: a JSON list, not one object a line: name the file .json")
        if key is None and isinstance(value, dict):
            key = list(value)[_choose(file, list(value), None)]
        yield f"{file}:{number}", _value(f"{file}:{number}", value, key)


def _json(file: Path, lines: Iterable[tuple[int, bytes]], column: str | None) -> Iterator[tuple[str, str]]:
    """Yield prompts from a list of texts or objects, an object of lists, or JSON Lines under the name .json."""
    numbered = list(_within(file, lines))
    texts = list(_decoded(file, numbered))
    filled = [line for _, line in texts if line.strip()]
    if not filled:
        return
    if len(filled) > 1 and _is_object(filled[0]) and _is_object(filled[1]):
        yield from _json_lines(file, iter(texts), column)
        return
    value = _parsed(str(file), "".join(line for _, line in texts))
    if isinstance(value, dict):
        name = list(value)[_choose(file, list(value), column)]
        value = value[name]
        if isinstance(value, dict):  # pandas writes a column as {"0": …, "1": …}
            value = list(value.values())
        if isinstance(value, str):
            value = [value]
        column = None
        if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
            raise ConfigError(
                f"{file}: {name!r} is not a list of texts: give a list of prompts or of objects"
            )
    if not isinstance(value, list):
        raise ConfigError(
            f"{file}: not a list of prompts: give a list of texts or of objects with a key prompt"
        )
    key = column
    for number, entry in enumerate(value, start=1):
        if key is None and isinstance(entry, dict):
            key = list(entry)[_choose(file, list(entry), None)]
        yield f"{file}: entry {number}", _value(f"{file}: entry {number}", entry, key)


def _within(file: Path, lines: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    total = 0
    for number, line in lines:
        total += len(line)
        if total > _MAX_JSON:
            raise ConfigError(
                f"{file}: more than {_MAX_JSON >> 20} MiB of JSON: save one object a line as .jsonl"
            )
        yield number, line


def _parquet(file: Path, column: str | None) -> Iterator[tuple[str, str]]:
    """Yield the prompt column of a Parquet table, read in batches of rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file, page_checksum_verification=True, pre_buffer=False) as table:
            names = table.schema_arrow.names
            name = names[_choose(file, names, column)]
            dtype = table.schema_arrow.field(name).type
            dtype = dtype.value_type if pa.types.is_dictionary(dtype) else dtype
            if not (
                pa.types.is_string(dtype) or pa.types.is_large_string(dtype) or pa.types.is_string_view(dtype)
            ):
                raise ConfigError(
                    f"{file}: the column {name!r} holds {dtype}, not texts: name another with --prompt-column"
                )
            row = 0
            for batch in table.iter_batches(_PARQUET_ROWS, columns=[name]):
                for text in batch.column(0).to_pylist():
                    row += 1
                    source = f"{file}: row {row}"
                    yield source, _value(source, text, None)
    except (pa.ArrowException, ValueError, EOFError) as error:
        if isinstance(error, ConfigError):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(f"{file}: not readable as Parquet ({reason}): get the file again") from error


def _choose(file: Path, names: Sequence[str], column: str | None) -> int:
    """Return the index of the prompt column among the names of columns or keys."""
    lower = [name.strip().lower() for name in names]
    listed = ", ".join(map(repr, names[:_SHOWN_COLUMNS])) + (", …" if len(names) > _SHOWN_COLUMNS else "")
    if column is not None:
        if (count := list(names).count(column)) != 1:
            count_text = "several columns are" if count else "no column is"
            raise ConfigError(f"{file}: {count_text} named {column!r}: its columns are {listed}")
        return list(names).index(column)
    matches = [index for index, name in enumerate(lower) if name == "prompt"]
    matches = matches or [index for index, name in enumerate(lower) if name in _SYNONYMS]
    if len(matches) != 1:
        problem = (
            "several columns may hold the prompts"
            if matches
            else "no column is named prompt, caption or text"
        )
        raise ConfigError(f"{file}: {problem}: name one with --prompt-column; its columns are {listed}")
    return matches[0]


def _value(source: str, value: Any, key: str | None) -> str:
    if isinstance(value, dict):
        if key not in value:
            raise ConfigError(f"{source}: no key {key!r}: every object needs it")
        value = value[key]
    if not isinstance(value, str):
        problem = "empty" if value is None else f"not text ({type(value).__name__})"
        raise ConfigError(f"{source}: the prompt is {problem}: write what the image should show")
    return value


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _parsed(source: str, text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0] if not isinstance(error, RecursionError) else "nested too deeply"
        raise ConfigError(f"{source}: not JSON ({reason}): fix the file, or get it again") from error


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key is repeated")
    return values
