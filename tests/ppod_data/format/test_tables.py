"""Tables: same rows, same bytes; damage is found where it is read; only what is asked for is read."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ppod_data.errors import ConfigError, DamagedError
from ppod_data.format.tables import LOG_PROBS, PAIRS, SAMPLES, SCORES, check_name, read_table, write_table
from tests.support.toy import flip, make_spec, write_shard

SCHEMAS = {"samples": SAMPLES, "scores": SCORES, "log_probs": LOG_PROBS, "pairs": PAIRS}
VALUES = {
    "string": ["ein Käfer", "", "x" * 1000],
    "int32": [0, -1, 2**31 - 1],
    "int64": [0, 2**63 - 1, -1],
    "float": [1.0, 0.5, None],
    "double": [1e-300, -2.5, None],
    "list<element: int32>": [[1, 2], [], [3]],
    "list<element: bool>": [[True, False], [], [True]],
    "list<element: double>": [[-1.5, None], [], [0.1]],
    "struct<bytes: binary, path: string>": [
        {"bytes": bytes([n]) * 5000, "path": f"{n}.png"} for n in range(3)
    ],
}


def rows(schema: pa.Schema) -> pa.Table:
    return pa.table([pa.array(VALUES[str(kind)], kind) for kind in schema.types], schema=schema)


@pytest.fixture
def part(tmp_path: Path) -> Path:
    """The samples of a committed shard."""
    write_shard(tmp_path, make_spec(), 0)
    return tmp_path / "samples" / "000000.parquet"


@pytest.mark.parametrize("name", SCHEMAS)
def test_tables_come_back_as_written_metadata_too(tmp_path: Path, name: str) -> None:
    table = rows(SCHEMAS[name])
    table = table.replace_schema_metadata({**table.schema.metadata, b"ppod": b'{"seed":0}'})
    write_table(tmp_path / "t.parquet", table)
    assert read_table(tmp_path / "t.parquet", SCHEMAS[name]).equals(table, check_metadata=True)


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_same_rows_give_the_same_bytes(tmp_path: Path, name: str) -> None:
    """However the rows came to be in memory: in one piece, in two, or cut out of a longer table."""
    table = rows(SCHEMAS[name])
    longer = pa.concat_tables([table, table])
    ways = [table, pa.concat_tables([table.slice(0, 1), table.slice(1)]), longer.slice(3), longer.slice(0, 3)]
    for number, way in enumerate(ways):
        write_table(tmp_path / f"{number}.parquet", way)
    assert len({(tmp_path / f"{number}.parquet").read_bytes() for number in range(len(ways))}) == 1


@pytest.mark.parametrize("column", SAMPLES.names)
def test_a_flipped_bit_in_any_page_is_found(part: Path, column: str) -> None:
    """The second half of a column's last chunk is page data, past the page's header."""
    group = pq.read_metadata(part).row_group(0)
    leaves = [group.column(i) for i in range(group.num_columns)]
    leaf = next(leaf for leaf in leaves if leaf.path_in_schema.split(".")[0] == column)
    start = leaf.dictionary_page_offset if leaf.has_dictionary_page else leaf.data_page_offset
    flip(part, start + leaf.total_compressed_size - 1)
    with pytest.raises(DamagedError, match=rf"{part}: damaged, the bytes of column '{column}'"):
        read_table(part, SAMPLES, [column])


def test_a_flipped_bit_of_an_image_is_found_wherever_it_is(part: Path) -> None:
    image = read_table(part, SAMPLES)["image"][1].as_py()["bytes"]
    whole = part.read_bytes()
    assert whole.count(image) == 1, "an image is stored once and as it is, not in statistics too"
    for place in (0, len(image) // 2, len(image) - 1):
        part.write_bytes(whole)
        flip(part, whole.index(image) + place)
        with pytest.raises(DamagedError, match=str(part)):
            read_table(part, SAMPLES)


@pytest.mark.parametrize("length", [0, 3, 500, -1, -400])
def test_a_cut_file_is_found(part: Path, length: int) -> None:
    data = part.read_bytes()
    part.write_bytes(data[:length])
    with pytest.raises(DamagedError) as error:
        read_table(part, SAMPLES)
    assert str(part) in str(error.value) and "\n" not in str(error.value)


def test_a_missing_file_is_damage(tmp_path: Path) -> None:
    with pytest.raises(DamagedError, match="the file is missing"):
        read_table(tmp_path / "x.parquet", SCORES)


def test_small_columns_are_read_without_the_images(part: Path) -> None:
    image = read_table(part, SAMPLES)["image"][0].as_py()["bytes"]
    flip(part, part.read_bytes().index(image))
    names = [name for name in SAMPLES.names if name != "image"]
    assert read_table(part, SAMPLES, names).num_rows == 4


def test_columns_come_in_the_order_asked_for_without_features_of_others(part: Path) -> None:
    table = read_table(part, SAMPLES, ["seed", "prompt"])
    assert table.column_names == ["seed", "prompt"]
    assert b"huggingface" not in table.schema.metadata


def test_unknown_columns_are_refused_with_the_known_ones(part: Path) -> None:
    with pytest.raises(ConfigError, match="no column 'latents' in this table: it has sample_id, prompt_id"):
        read_table(part, SAMPLES, ["latents"])


def test_tables_of_others_are_refused_by_column(tmp_path: Path, part: Path) -> None:
    with pytest.raises(DamagedError, match="the column 'score' is missing"):
        read_table(part, SCORES)
    table = rows(SCORES).set_column(1, "score", pa.array([1.0, 2.0, 3.0], pa.float32()))
    write_table(tmp_path / "t.parquet", table)
    with pytest.raises(DamagedError, match="the column 'score' holds float, not double"):
        read_table(tmp_path / "t.parquet", SCORES)


def test_more_columns_than_ours_are_no_harm(tmp_path: Path) -> None:
    table = rows(LOG_PROBS).append_column("note", pa.array(["a", "b", "c"]))
    write_table(tmp_path / "t.parquet", table)
    assert read_table(tmp_path / "t.parquet", LOG_PROBS).column_names == LOG_PROBS.names


def test_row_groups_are_small(tmp_path: Path) -> None:
    spec = make_spec(num_images_per_prompt=100, images_per_shard=200)
    write_shard(tmp_path, spec, 0)
    metadata = pq.read_metadata(tmp_path / "samples" / "000000.parquet")
    assert metadata.num_rows == 200 and metadata.num_row_groups == 4


def test_the_features_for_datasets_are_those_of_datasets_itself() -> None:
    from datasets import Features

    for schema in SCHEMAS.values():
        features = Features.from_arrow_schema(schema)
        assert list(features) == schema.names
        assert features.arrow_schema.types == schema.types
    assert type(Features.from_arrow_schema(SAMPLES)["image"]).__name__ == "Image"


@pytest.mark.parametrize("name", ["a", "ImageReward-v1.0", "rank_2", "0"])
def test_names_that_are_good_everywhere(name: str) -> None:
    assert check_name(name, "a table") == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "a/b", "../x", "a b", "a*", "ä", "-x", "x" * 101, "a\n"]
)
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot name a table of pairs: use"):
        check_name(name, "a table of pairs")
