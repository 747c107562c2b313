"""Label files read record by record with constant memory: Parquet, JSON, JSON lines, CSV, TFRecord."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ppod_data.errors import ConfigError, DamagedError
from ppod_data.labels.answers import Bad, Record, reason_of
from ppod_data.labels.files.spreadsheets import read_csv, text_encoding
from ppod_data.storage.files import refuse_pointer_file
from ppod_data.storage.json_reader import parse_json
from ppod_data.storage.unreadable import raise_if_unreadable

_PARQUET_ROWS = 65_536
_PARQUET_ROWS_WITH_BYTES = 64
_MAX_RECORD = 256 << 20
_SUFFIXES = (".parquet", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".tfrecord")


def label_files(path: Path) -> list[Path]:
    """Return the label files that `path` is or contains, sorted.

    Raises:
        ConfigError: there are no label files.
    """
    if path.is_file():
        if _suffix(path) is None:
            raise ConfigError(f"{path}: not a label file: its name must end in one of {', '.join(_SUFFIXES)}")
        refuse_pointer_file(path)
        return [path]
    if not path.is_dir():
        raise ConfigError(f"{path}: no such file or folder")
    found = sorted(file for file in visible_files(path) if _suffix(file))
    if not found:
        raise ConfigError(f"{path}: no file of labels in this folder ({', '.join(_SUFFIXES)})")
    suffixes = sorted({str(_suffix(file)) for file in found})
    if len(suffixes) > 1:
        raise ConfigError(
            f"{path}: files of several formats ({', '.join(suffixes)}): give the file with the labels"
        )
    for file in found:
        refuse_pointer_file(file)
    return found


def visible_files(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder, without hidden files and files in hidden folders such as .ipynb_checkpoints."""
    for path in folder.rglob("[!.]*"):
        is_hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not is_hidden and path.is_file():
            yield path


def _suffix(path: Path) -> str | None:
    """Return the format's suffix; the parts of a TFRecord set are named train.tfrecord-00000-of-00001."""
    name = path.name.lower()
    return next((suffix for suffix in _SUFFIXES if name.endswith(suffix)), None) or (
        ".tfrecord" if ".tfrecord-" in name else None
    )


def read_tables(path: Path) -> Iterator[Any]:
    """Yield the Arrow tables of a Parquet file in batches of rows.

    Raises:
        DamagedError: the file is truncated or not Parquet.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # pre_buffer would make iter_batches keep every row group in memory until the end.
        with pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False) as file:
            heavy = any(_holds_bytes(field.type) for field in file.schema_arrow)
            for batch in file.iter_batches(_PARQUET_ROWS_WITH_BYTES if heavy else _PARQUET_ROWS):
                yield pa.Table.from_batches([batch])
    except MemoryError:
        raise
    except (pa.ArrowException, OSError, ValueError, EOFError) as error:
        raise_if_unreadable(error, path)
        reason = reason_of(error)
        raise DamagedError(f"{path}: cannot be read as Parquet ({reason}): get the file again") from error


def _holds_bytes(data_type: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(data_type):
        return any(_holds_bytes(field.type) for field in data_type)
    return bool(pa.types.is_binary(data_type) or pa.types.is_large_binary(data_type))


def is_parquet(path: Path) -> bool:
    """Return True for a Parquet file."""
    return _suffix(path) == ".parquet"


def table_records(table: Any, file: str, first: int) -> Iterator[Record]:
    """Yield the rows of an Arrow table as records; `first` is the number of the first row."""
    try:
        rows = table.to_pylist()
    except UnicodeDecodeError:
        rows = [_row(table, i) for i in range(table.num_rows)]
    for number, row in enumerate(rows, start=first):
        yield Record(row, file, number)


def _row(table: Any, i: int) -> dict[str, Any] | str:
    """Return one row, or, if a text in it is not UTF-8, a text that every parser rejects."""
    try:
        row: dict[str, Any] = table.slice(i, 1).to_pylist()[0]
        return row
    except UnicodeDecodeError:
        return "a text that is not UTF-8"


def read_records(path: Path) -> Iterator[Record]:
    """Yield the records of a file that is not Parquet; an unreadable line comes with its reason.

    Raises:
        DamagedError: the file is truncated, or invalid from some point on.
    """
    suffix = _suffix(path)
    if suffix in (".jsonl", ".ndjson"):
        return _json_lines(path)
    if suffix == ".json":
        return _json(path)
    if suffix == ".tfrecord":
        return _tf_records(path)
    return read_csv(path, "\t" if suffix == ".tsv" else ",")


def all_records(path: Path) -> Iterator[Record]:
    """Yield the records of a file of any format; errors as in `read_records` and `read_tables`."""
    if not is_parquet(path):
        yield from read_records(path)
        return
    first = 1
    for table in read_tables(path):
        yield from table_records(table, path.name, first)
        first += table.num_rows


def _json_lines(path: Path) -> Iterator[Record]:
    if (encoding := text_encoding(path)) != "utf-8-sig":
        raise DamagedError(f"{path}: written as {encoding.upper()}: save it as UTF-8")
    with path.open("rb") as file:
        number = 0
        while line := file.readline(_MAX_RECORD):
            number += 1
            if len(line) == _MAX_RECORD:
                raise DamagedError(f"{path}:{number}: a line of more than {_MAX_RECORD >> 20} MiB")
            if not line.strip():
                continue
            try:
                value = parse_json(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except (ValueError, RecursionError) as error:
                yield Record(None, path.name, number, problem=Bad(f"not JSON: {reason_of(error)}"))
            else:
                yield Record(value, path.name, number)


def _json(path: Path) -> Iterator[Record]:
    """Yield the entries of a file's JSON list."""
    import ijson

    with path.open("rb") as file:
        if (encoding := text_encoding(path)) != "utf-8-sig":
            raise DamagedError(f"{path}: written as {encoding.upper()}: save it as UTF-8")
        start = file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
        if start != b"[":
            raise DamagedError(
                f"{path}: not a JSON list: save it as a list, or as one record per line in {path.stem}.jsonl"
            )
        file.seek(0)
        if file.read(3) != b"\xef\xbb\xbf":
            file.seek(0)
        number = 0
        try:
            for value in ijson.items(file, "item", use_float=True):
                number += 1
                yield Record(value, path.name, number)
        except (ijson.JSONError, ValueError, RecursionError) as error:
            raise DamagedError(
                f"{path}: not JSON after record {number} ({reason_of(error)}): get the file again, or save "
                f"one record per line in {path.stem}.jsonl"
            ) from error


def _tf_records(path: Path) -> Iterator[Record]:
    """Yield tf.train.Example messages: each has a length, a checksum of the length, the bytes, and their checksum."""
    from google.protobuf.message import DecodeError

    example = _example_class()
    with path.open("rb") as file:
        number = 0
        while head := file.read(12):
            number += 1
            length = struct.unpack("<Q", head[:8])[0] if len(head) == 12 else _MAX_RECORD + 1
            body = file.read(length + 4) if length <= _MAX_RECORD else b""
            if len(body) != length + 4:
                raise DamagedError(f"{path}: truncated in record {number}: get the file again")
            try:
                message = example.FromString(body[:-4])
                value = {entry.key: _feature(entry.value) for entry in message.features.feature}
            except DecodeError as error:
                problem = Bad(f"not a tf.train.Example: {reason_of(error)}")
                yield Record(None, path.name, number, problem=problem)
            else:
                yield Record(value, path.name, number)


def _feature(feature: Any) -> Any:
    """Return the single value of a feature; bytes become text if they are UTF-8."""
    values = [*feature.bytes_list.value, *feature.float_list.value, *feature.int64_list.value]
    if len(values) != 1:
        return values or None
    if isinstance(values[0], bytes):
        try:
            return values[0].decode()
        except UnicodeDecodeError:
            pass
    return values[0]


def _example_class() -> Any:
    """Return the message class tf.train.Example; its description here avoids the dependency on tensorflow."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="ppod/example.proto", package="ppod", syntax="proto3")
    kinds = descriptor_pb2.FieldDescriptorProto
    plain = {"BytesList": kinds.TYPE_BYTES, "FloatList": kinds.TYPE_FLOAT, "Int64List": kinds.TYPE_INT64}
    one, many = kinds.LABEL_OPTIONAL, kinds.LABEL_REPEATED

    def message(name: str, *fields: tuple[str, int, int, str | None]) -> None:
        made = file.message_type.add(name=name)
        for place, (field, label, kind, of) in enumerate(fields, start=1):
            made.field.add(name=field, number=place, label=label, type=kind, type_name=of and f".ppod.{of}")

    for name, kind in plain.items():
        message(name, ("value", many, kind, None))
    message(
        "Feature",
        ("bytes_list", one, kinds.TYPE_MESSAGE, "BytesList"),
        ("float_list", one, kinds.TYPE_MESSAGE, "FloatList"),
        ("int64_list", one, kinds.TYPE_MESSAGE, "Int64List"),
    )
    message("Entry", ("key", one, kinds.TYPE_STRING, None), ("value", one, kinds.TYPE_MESSAGE, "Feature"))
    message("Features", ("feature", many, kinds.TYPE_MESSAGE, "Entry"))
    message("Example", ("features", one, kinds.TYPE_MESSAGE, "Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("ppod.Example"))
