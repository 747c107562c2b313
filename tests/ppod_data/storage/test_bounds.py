"""Bounds on what a small file of a stranger may become, checked before memory or time is spent."""

import contextlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ppod_data import Dataset
from ppod_data.dataset.dataset import create
from ppod_data.dataset.exclusions import EXCLUSIONS, Exclusion, encode_exclusions
from ppod_data.dataset.image_reader import read_images
from ppod_data.diffusion.schedule import build_schedule
from ppod_data.errors import ConfigError, DamagedError, PpodError
from ppod_data.format.manifest import read_manifest
from ppod_data.format.provenance import provenance_of
from ppod_data.format.spec import from_json
from ppod_data.format.tables import LOG_PROBS, SAMPLES, read_table, write_table
from ppod_data.integrity.verify import verify
from ppod_data.storage.json_reader import MAX_DEPTH, parse_json, read_object
from tests.support.toy import flip, make_dataset, make_spec

MIB = 1 << 20


def bomb(path: Path, name: str, column: Any, schema: Any = SAMPLES, **options: Any) -> None:
    """Write a table of another writer, one column of which becomes far more than the file is."""
    columns = {field.name: pa.nulls(len(column), field.type) for field in schema} | {name: column}
    table = pa.table(list(columns.values()), names=list(columns))
    pq.write_table(table, path, compression="zstd", store_schema=False, **options)


def repeated(rows: int, nbytes: int) -> Any:
    return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["a" * nbytes]))


BOMBS: dict[str, tuple[str, Callable[[], Any], dict[str, Any]]] = {
    "a dictionary's long value in many rows": ("prompt", lambda: repeated(1000, 4 * MIB), {}),
    "one page": ("prompt", lambda: pa.array(["a" * (120 * MIB)]), {"use_dictionary": False}),
    "shared prefixes": (
        "prompt",
        lambda: pa.array(["a" * MIB] * 120),
        {"use_dictionary": False, "column_encoding": {"prompt": "DELTA_BYTE_ARRAY"}},
    ),
    "a run of nulls": (
        "log_probs",
        lambda: pa.array([[None] * 10_000_000], LOG_PROBS.field("log_probs").type),
        {},
    ),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_small_file_of_much_is_refused_before_memory_is_used(kind: str, tmp_path: Path) -> None:
    name, column, options = BOMBS[kind]
    path = tmp_path / "part.parquet"
    bomb(path, name, column(), dictionary_pagesize_limit=64 * MIB, **options)
    assert path.stat().st_size < MIB
    usual = pa.default_memory_pool()
    counting = pa.proxy_memory_pool(usual)
    pa.set_memory_pool(counting)
    try:
        with pytest.raises(DamagedError, match="MiB of values in"):
            read_table(path, SAMPLES, [name])
    finally:
        pa.set_memory_pool(usual)
    assert counting.max_memory() < 220 * MIB


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("compression", ["snappy", "gzip", "lz4", "none", "brotli"])
def test_tables_of_other_writers_are_read(version: str, compression: str, tmp_path: Path) -> None:
    table = pa.table(
        {
            "sample_id": [f"{n:032x}" for n in range(3000)],
            "log_probs": [[0.5, None, float(n)] for n in range(3000)],
        },
        schema=LOG_PROBS,
    )
    path = tmp_path / "part.parquet"
    pq.write_table(table, path, compression=compression, data_page_version=version, row_group_size=700)
    assert read_table(path, LOG_PROBS).equals(table)


def test_a_large_dictionary_of_short_values_is_read(tmp_path: Path) -> None:
    prompts = [f"{n:06d}" * 30 for n in range(9000)]
    columns = {field.name: pa.nulls(9000, field.type) for field in SAMPLES} | {"prompt": pa.array(prompts)}
    path = tmp_path / "part.parquet"
    write_table(path, pa.table(list(columns.values()), schema=SAMPLES))
    assert read_table(path, SAMPLES, ["prompt"])["prompt"].to_pylist() == prompts


@pytest.mark.parametrize("column", ["prompt", "sample_id", "traj_file", "image_pixels_sha256"])
def test_a_text_that_is_not_utf8_is_damage_of_the_named_file(column: str, tmp_path: Path) -> None:
    root = make_dataset(tmp_path).root
    path = root / "samples" / "000000.parquet"
    table = read_table(path, SAMPLES)
    bad = pa.Array.from_buffers(pa.string(), 4, pa.array([b"\xff\xfe"] * 4, pa.binary()).buffers())
    place = table.schema.get_field_index(column)
    write_table(path, table.set_column(place, table.schema.field(column), bad), 64)
    assert next(finding.file for finding in verify(root).of("damaged")) == "samples/000000.parquet"
    with pytest.raises(DamagedError, match=r"000000\.parquet: damaged"):
        Dataset.open(root).samples([column])


def test_an_image_that_is_not_the_one_of_its_hash_is_not_shown(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    path = dataset.root / "samples" / "000000.parquet"
    table = read_table(path, SAMPLES)
    rows = table.to_pylist()
    rows[0]["image"], rows[1]["image"] = rows[1]["image"], rows[0]["image"]
    write_table(path, pa.Table.from_pylist(rows, schema=table.schema), 64)
    with pytest.raises(DamagedError, match=f"image of sample {rows[0]['sample_id']}"):
        list(read_images(dataset.root, dataset.spec, [rows[0]["sample_id"]]))


def test_no_flip_in_a_page_header_makes_images_disappear(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, num_images_per_prompt=40, images_per_shard=80, prompts=("a", "b"))
    path = dataset.root / "samples" / "000000.parquet"
    whole = path.read_bytes()
    wanted = dataset.samples(["sample_id"])["sample_id"].to_pylist()[10:12]
    right = dict(read_images(dataset.root, dataset.spec, wanted))
    metadata = pq.read_metadata(path)
    chunks = [metadata.row_group(group).column(5) for group in range(metadata.num_row_groups)]
    assert {chunk.path_in_schema for chunk in chunks} == {"image.bytes"}
    for chunk in chunks:
        for offset in range(chunk.data_page_offset, chunk.data_page_offset + 40):
            flip(path, offset)
            with contextlib.suppress(PpodError):
                assert dict(read_images(dataset.root, dataset.spec, wanted)) == right
            path.write_bytes(whole)


def test_exclusions_of_another_data_set_cost_nothing_and_are_damage(tmp_path: Path) -> None:
    root = tmp_path / "data"
    create(root, make_spec(prompts=("a",), num_images_per_prompt=2**20, images_per_shard=2**20))
    entries = [Exclusion("prompt_id", f"{n:032x}", "x") for n in range(1000)]
    (root / EXCLUSIONS).write_bytes(encode_exclusions(entries))
    assert not Dataset.open(root).excluded
    small = make_dataset(tmp_path / "small")
    (small.root / EXCLUSIONS).write_bytes(
        encode_exclusions([*entries, Exclusion("sample_id", "0" * 32, "x")])
    )
    found = verify(small.root).of("damaged")
    assert [(one.file, one.problem[:47]) for one in found] == [
        (EXCLUSIONS, "1001 entries are of another data set, 000000000")
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"num_train_timesteps": 4 * 10**9},
        {"num_train_timesteps": 10**9, "beta_schedule": "squaredcos_cap_v2"},
        {"num_train_timesteps": 0},
        {"num_train_timesteps": "x"},
        {"trained_betas": [0.1] * 100_001},
        {"trained_betas": "x"},
        {"trained_betas": [2.0] * 1000},
        {"beta_start": "x"},
        {"beta_end": 10**18},
        {"beta_schedule": "unknown"},
        {"an option": 3},
        {"sigmas": [1.0, "x", 0]},
        {"sigmas": [1.0] * 100_001},
    ],
)
def test_a_scheduler_that_is_no_chain_is_refused_at_once(
    changes: dict[str, Any], scheduler_config: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError):
        build_schedule(scheduler_config | changes, 4, 1.0)


@pytest.fixture
def scheduler_config() -> dict[str, Any]:
    from ppod_data.diffusion.ddim import ddim_config

    config = ddim_config("DDIMScheduler", {"beta_schedule": "scaled_linear"})
    assert build_schedule(config, 4, 1.0).num_inference_steps == 4
    return config


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"\xff", "utf-8"),
        (b"[" * 100_000, "deep"),
        (b"[" * (MAX_DEPTH + 2) + b"]" * (MAX_DEPTH + 2), "deep"),
        (b'{"a":' * 200 + b"1" + b"}" * 200, "deep"),
        (b'["\\ud800"]', "surrogates"),
        (b'{"\\udfff": 1}', "surrogates"),
        (b"[" + b"9" * 5000 + b"]", "digits"),
        (b"-" + b"1" * 20, "digits"),
        (b"{", "line 1"),
    ],
)
def test_json_beyond_its_bounds_is_one_kind_of_error(text: bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_json(text)
    (tmp_path / "run.json").write_bytes(text)
    with pytest.raises(DamagedError, match=r"run\.json: not readable as JSON"):
        read_object(tmp_path / "run.json")
    with pytest.raises(DamagedError, match="pairs/p: its metadata"):
        provenance_of({b"ppod": text}, "pairs/p")


def test_json_within_its_bounds_is_read_as_json_is() -> None:
    value = {"a": [1, -(10**18), 1.5, None, True, "\U0001f407 ü"], "b": {}}
    assert (
        parse_json(json.dumps(value)) == parse_json(json.dumps(value, ensure_ascii=False).encode()) == value
    )


def test_a_manifest_is_refused_by_name_whatever_stands_in_it(tmp_path: Path) -> None:
    """Every value of a manifest is replaced by each of these; what is accepted is a spec that can be written again."""
    root = make_dataset(tmp_path).root
    text = (root / "ppod.json").read_bytes()
    values = [
        None,
        True,
        -1,
        0,
        10**18,
        1e300,
        "",
        "\x9b31m",
        "last:" + "9" * 5000,
        [],
        [[]],
        {},
        {"a": []},
        [None],
    ]
    chooser = random.Random(1)
    places = list(_places(json.loads(text)))
    for place in places:
        for value in [*chooser.sample(values, 6), "raw: \\ud800", "raw: NaN", "raw: " + "7" * 5000]:
            (root / "ppod.json").write_text(_replaced(json.loads(text), place, value))
            try:
                spec, _ = read_manifest(root)
            except PpodError as error:
                assert "ppod.json" in str(error) or str(root) in str(error), (place, value)
            else:
                assert from_json(json.loads(json.dumps(spec_json(spec)))) == spec


def spec_json(spec: Any) -> dict[str, Any]:
    from ppod_data.format.spec import to_json

    return to_json(spec)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [path, *(place for key, item in value.items() for place in _places(item, (*path, key)))]
    if isinstance(value, list):
        return [path, *(place for i, item in enumerate(value[:2]) for place in _places(item, (*path, i)))]
    return [path]


def _replaced(value: Any, place: tuple[Any, ...], new: Any) -> str:
    """The JSON text with another value at a place, without its checksum and with the spec's own fingerprint."""
    raw = new.removeprefix("raw: ") if isinstance(new, str) and new.startswith("raw: ") else None
    new = "@" if raw is not None else new
    if not place:
        value = new
    else:
        holder = value
        for key in place[:-1]:
            holder = holder[key]
        holder[place[-1]] = new
    if isinstance(value, dict):
        value.pop("sha256", None)
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            value["fingerprint"] = (
                from_json(value["spec"]).fingerprint if place[:1] == ("spec",) else value["fingerprint"]
            )
    text = json.dumps(value)
    if raw is None:
        return text
    return text.replace('"@"', f'"{raw}"' if raw.startswith("\\u") else raw)


def test_metadata_of_a_table_that_is_no_object_is_damage(tmp_path: Path) -> None:
    assert provenance_of(None, "x") == {} == provenance_of({}, "x")
    with pytest.raises(DamagedError, match="is not a JSON object"):
        provenance_of({b"ppod": b"[1]"}, "pairs/p.parquet")
