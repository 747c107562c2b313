"""Data sets come from strangers: whatever stands in a file is refused in one line, in bounded memory and time."""

import ast
import io
import json
import os
import pickle
import random
import struct
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ppod_cli.app.output import printable

from ppod_data import Dataset
from ppod_data.dataset.dataset import create
from ppod_data.dataset.exclusions import read_exclusions
from ppod_data.errors import ConfigError, DamagedError, PpodError
from ppod_data.format.images import decode_image
from ppod_data.format.manifest import read_manifest
from ppod_data.format.shards import ShardWriter
from ppod_data.format.sums import read_sums
from ppod_data.format.tables import PAIRS, SAMPLES, SCORES, read_table, write_table
from ppod_data.integrity.verify import verify
from ppod_data.scoring.score import score
from ppod_data.storage.files import sha256_file
from tests.support.damage import Brightness, everything, kinds, make_whole
from tests.support.toy import make_dataset, make_sample, make_spec

REPOSITORY = Path(__file__).parents[3]


def png(width: int, height: int, rows: int = 1) -> bytes:
    """A PNG that claims a size; its pixels are zeros, which compress a thousandfold."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * rows * (1 + 3 * min(width, 10_000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not an image",
        png(60_000, 60_000),
        png(2**31 - 1, 2**31 - 1),
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
    ],
)
def test_images_that_are_none_or_bombs(data: bytes) -> None:
    with pytest.raises(DamagedError):
        decode_image(data)


def test_a_bomb_in_a_committed_shard_is_named_by_its_sample(tmp_path: Path) -> None:
    dataset = create(
        tmp_path / "data", make_spec(images_per_shard=1, prompts=("a",), num_images_per_prompt=1)
    )
    sample = replace(make_sample(dataset.spec, 0), image_bytes=png(60_000, 60_000))
    with ShardWriter(dataset.root, 0) as writer:
        writer.add(sample)
    with pytest.raises(ConfigError, match=r"could score none of 1 images .*cannot decode this image"):
        score(dataset, Brightness(), name="b")
    [finding] = verify(dataset.root, read_data=1).findings
    assert finding.sample_id == sample.sample_id


def edited(root: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Edit the manifest as a stranger would who keeps its checksums right."""
    path = root / "ppod.json"
    manifest = json.loads(path.read_bytes())
    change(manifest)
    manifest.pop("sha256", None)
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("num_images_per_prompt", 10**18, "at most 1048576"),
        ("num_inference_steps", 10**18, "at most 10000"),
        ("images_per_shard", 10**18, "at most"),
        ("batch_size", 10**18, "at most"),
        ("width", 10**9, "at most"),
        ("latent_shape", [2**20, 2**20, 2**20], "at most"),
        ("prompts", ["a\x1b[31mb"], "control character U\\+001B"),
        ("prompts", ["a\x00b"], "control character"),
        ("scheduler", {"x": float("inf")}, "scheduler"),
        ("version", 9, "update ppod"),
        ("version", 2, "lacks the key 'origin'"),
        ("images", [["a" * 64]], "unknown key 'images'"),
    ],
)
def test_specs_that_would_take_all_memory_or_time(tmp_path: Path, name: str, value: Any, said: str) -> None:
    root = make_dataset(tmp_path / "data").root
    edited(root, lambda manifest: manifest["spec"].update({name: value}))
    with pytest.raises(DamagedError, match=said) as error:
        Dataset.open(root)
    assert "\x1b" not in printable(str(error.value))


def test_more_prompts_than_a_data_set_can_have(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "data").root
    many = {"prompts": [f"p{n}" for n in range(20)], "num_images_per_prompt": 2**20}
    edited(root, lambda manifest: manifest["spec"].update(many))
    with pytest.raises(DamagedError, match="images fit into one data set"):
        Dataset.open(root)


@pytest.mark.parametrize("depth", [400, 900, 5_000, 200_000])
def test_deep_nesting_is_an_error_and_no_crash(tmp_path: Path, depth: int) -> None:
    root = make_dataset(tmp_path / "data").root
    text = (root / "ppod.json").read_text()
    for place in ('"beta_end": 0.012', '"format": "ppod-dataset"'):
        nested = place.split(":")[0] + ": " + "[" * depth + "]" * depth
        (root / "ppod.json").write_text(text.replace(place, nested))
        with pytest.raises(PpodError, match=r"ppod\.json"):
            Dataset.open(root)


@pytest.mark.parametrize("version", [0, 9, "1", None, 1.5, [1]])
def test_other_format_versions(tmp_path: Path, version: Any) -> None:
    root = make_dataset(tmp_path / "data").root
    edited(root, lambda manifest: manifest.update({"version": version}))
    with pytest.raises(ConfigError, match=r"format version .* update ppod"):
        Dataset.open(root)


@pytest.mark.parametrize("name", ["ppod.json", "samples/000000.parquet", "exclusions.jsonl", "SHA256SUMS"])
@pytest.mark.parametrize("what", ["pipe", "device", "folder"])
def test_pipes_devices_and_folders_instead_of_files(tmp_path: Path, name: str, what: str) -> None:
    """Reading a pipe would wait for ever, and /dev/zero never ends."""
    root = make_whole(tmp_path / "data", sealed=True).root
    path = root / name
    path.unlink()
    if what == "pipe":
        os.mkfifo(path)
    elif what == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    found = verify(root, read_data=1)
    assert name in [finding.file for finding in found.of("damaged")]
    if name != "SHA256SUMS":
        with pytest.raises(PpodError, match=path.name):
            everything(root)


@pytest.mark.parametrize("what", ["pipe", "device"])
def test_a_tar_that_is_a_pipe_or_a_device(tmp_path: Path, what: str) -> None:
    root = make_whole(tmp_path / "data", sealed=False).root
    path = kinds(root)["trajectories"][0]
    path.unlink()
    os.mkfifo(path) if what == "pipe" else path.symlink_to("/dev/zero")
    with pytest.raises(DamagedError, match=path.name):
        everything(root)
    assert f"trajectories/{path.name}" in [
        finding.file for finding in verify(root, read_data=1).of("damaged")
    ]


def test_a_trajectory_that_claims_a_huge_sparse_file(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data")
    row = dataset.samples().to_pylist()[0]
    os.truncate(dataset.root / "trajectories" / row["traj_file"], 1 << 42)
    with pytest.raises(DamagedError, match=rf"{row['sample_id']} claims {1 << 41} bytes"):
        dataset.read_trajectory(row | {"traj_nbytes": 1 << 41})


def hostile_tar(members: list[tuple[tarfile.TarInfo, bytes]], format: int = tarfile.USTAR_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for member, data in members:
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def member(name: str, **values: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in values.items():
        setattr(info, key, value)
    return info


HOSTILE_TARS = {
    "absolute name": hostile_tar([(member("/etc/passwd"), b"x")]),
    "path traversal": hostile_tar([(member("../../x"), b"x")]),
    "symbolic link": hostile_tar([(member("a.json", type=tarfile.SYMTYPE, linkname="/etc/passwd"), b"")]),
    "hard link": hostile_tar([(member("a.json", type=tarfile.LNKTYPE, linkname="/etc/passwd"), b"")]),
    "device": hostile_tar([(member("a.json", type=tarfile.CHRTYPE), b"")]),
    "extended header": hostile_tar([(member("a" * 300), b"x")], tarfile.PAX_FORMAT),
    "gnu long name": hostile_tar([(member("a" * 300), b"x")], tarfile.GNU_FORMAT),
    "nothing": b"",
    "zeros": b"\0" * 10_240,
}


@pytest.mark.parametrize("kind", [*HOSTILE_TARS, "member twice", "huge size", "more at the end"])
def test_tars_are_never_extracted_and_nothing_strange_is_in_them(tmp_path: Path, kind: str) -> None:
    """The tar is replaced, and the table and its name fit it: what a stranger can do who knows the format."""
    root = make_dataset(tmp_path / "data").root
    part = root / "samples" / "000001.parquet"
    table = read_table(part, SAMPLES)
    old = root / "trajectories" / table["traj_file"][0].as_py()
    whole = old.read_bytes()
    first = whole[: 2 * 512]
    data = {
        "member twice": first + whole,
        "huge size": whole[:124] + b"77777777777\0" + whole[136:],
        "more at the end": whole + first,
    }.get(kind) or HOSTILE_TARS.get(kind, b"")
    new = root / "trajectories" / "new"
    new.write_bytes(data)
    name = f"000001-{sha256_file(new)[:16]}.tar"
    os.replace(new, root / "trajectories" / name)
    old.unlink()
    column = pa.array([name] * table.num_rows, pa.string())
    write_table(part, table.set_column(table.schema.get_field_index("traj_file"), "traj_file", column))
    findings = verify(root, read_data=1).of("damaged")
    assert f"trajectories/{name}" in [finding.file for finding in findings], findings


def test_a_table_of_other_columns_or_a_column_twice(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"x": [1]}), path)
    with pytest.raises(DamagedError, match="'sample_id' is missing"):
        read_table(path, SCORES)
    twice = pa.Table.from_arrays([pa.array(["a"])] * 2, ["sample_id", "sample_id"])
    pq.write_table(twice, path)
    with pytest.raises(DamagedError, match=r"t\.parquet"):
        read_table(path, SCORES, ["sample_id"])


def test_a_table_with_more_rows_than_bytes(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    count = 3_000_000
    column = pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int8()), pa.array(["a"])).cast(
        pa.string()
    )
    pq.write_table(pa.table({"sample_id": column}), path, compression="zstd")
    assert path.stat().st_size < 100_000
    with pytest.raises(DamagedError, match=r"3000000 rows in \d+ bytes"):
        read_table(path, SCORES, ["sample_id"])


def test_a_table_that_expands_a_thousandfold(tmp_path: Path) -> None:
    """One long text, named in every row by a dictionary: hundreds of megabytes from a few hundred bytes."""
    path = tmp_path / "t.parquet"
    text = pa.array(["a" * 1_000_000])
    column = pa.chunked_array([pa.DictionaryArray.from_arrays(pa.array([0] * 100, pa.int8()), text)] * 2)
    pq.write_table(pa.table({"sample_id": column.cast(pa.string())}), path, compression="zstd")
    assert path.stat().st_size < 100_000
    with pytest.raises(DamagedError, match=r"MiB of values in \d+ bytes"):
        read_table(path, SCORES, ["sample_id"])


class Bomb:
    """Unpickled, it leaves a file behind."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_no_pickle_is_loaded_wherever_it_stands(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    bomb = pickle.dumps(Bomb(mark))
    with pytest.raises(FileExistsError):
        mark.mkdir()
        pickle.loads(bomb)
    mark.rmdir()
    root = make_whole(tmp_path / "data", sealed=True).root
    for paths in kinds(root).values():
        for path in paths:
            whole = path.read_bytes()
            path.write_bytes(bomb)
            with pytest.raises(PpodError):
                everything(root)
                if verify(root, read_data=1).findings:
                    raise DamagedError("found by verify")
            path.write_bytes(whole)
    for payload in (bomb, struct.pack("<Q", len(bomb)) + bomb):
        sample = replace(
            make_sample(make_spec(images_per_shard=1), 0), latents_safetensors=payload, image_bytes=bomb
        )
        dataset = create(tmp_path / f"one{len(payload)}", make_spec(images_per_shard=1))
        with ShardWriter(dataset.root, 0) as writer:
            writer.add(sample)
        with pytest.raises(PpodError):
            dataset.trajectory(sample.sample_id)
        with pytest.raises(PpodError):
            score(dataset, Brightness(), name="b")
        assert verify(dataset.root, read_data=1).of("damaged")
    extension = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": bomb}
    field = pa.field("sample_id", pa.string(), metadata=extension)
    table = pa.table([pa.array(["a" * 32])], schema=pa.schema([field], metadata={b"ppod": bomb}))
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(DamagedError):
        read_table(tmp_path / "t.parquet", SCORES)
    assert not mark.exists()


UNSAFE = {
    ("pickle", "load"), ("pickle", "loads"), ("torch", "load"), ("joblib", "load"), ("marshal", "loads"),
    ("marshal", "load"), ("shelve", "open"), ("yaml", "load"), ("os", "system"), ("dill", "load"),
}  # fmt: skip


@pytest.mark.parametrize("package", ["ppod_data", "ppod_train", "cli"])
def test_no_module_calls_what_executes_data(package: str) -> None:
    found = []
    for path in sorted((REPOSITORY / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                found += [
                    (path.name, name) for name in names if name in {"pickle", "marshal", "shelve", "dill"}
                ]
            if not isinstance(node, ast.Call):
                continue
            function = node.func
            if isinstance(function, ast.Name) and function.id in {"eval", "exec", "__import__"}:
                found.append((path.name, function.id))
            if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
                safe = any(
                    one.arg == "weights_only" and getattr(one.value, "value", None) is True
                    for one in node.keywords
                )
                if (function.value.id, function.attr) in UNSAFE and not safe:
                    found.append((path.name, function.attr))
            found += [
                (path.name, one.arg)
                for one in node.keywords
                if (one.arg in {"allow_pickle", "shell", "trust_remote_code"})
                and getattr(one.value, "value", None) is not False
            ]
    assert found == []


FUZZ = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@FUZZ
@given(st.binary(max_size=300), JSON, st.integers(0, 2**32))
def test_fuzzed_small_files_give_our_errors_only(tmp_path: Path, data: bytes, value: Any, seed: int) -> None:
    texts = [
        data,
        json.dumps(value).encode(),
        json.dumps({"format": "ppod-dataset", "version": 1, "spec": value}).encode(),
    ]
    for text in texts:
        for name, read in (
            ("ppod.json", lambda: read_manifest(tmp_path)),
            ("exclusions.jsonl", lambda: read_exclusions(tmp_path)),
            ("SHA256SUMS", lambda: read_sums(tmp_path / "SHA256SUMS")),
            ("t.parquet", lambda: read_table(tmp_path / "t.parquet", PAIRS)),
        ):
            (tmp_path / name).write_bytes(text)
            with pytest.raises(PpodError) as error:
                read()
            assert "\n" not in str(error.value)


@FUZZ
@given(JSON, st.sampled_from(list(make_spec().__dataclass_fields__)))
def test_fuzzed_specs(tmp_path_factory: pytest.TempPathFactory, value: Any, name: str) -> None:
    root = tmp_path_factory.mktemp("spec")
    create(root / "data", make_spec())
    edited(root / "data", lambda manifest: manifest["spec"].update({name: value}))
    with pytest.raises(PpodError):
        if read_manifest(root / "data")[0].fingerprint == make_spec().fingerprint:
            raise DamagedError("an informative field, or the same value")


@FUZZ
@given(
    st.one_of(st.binary(max_size=200), JSON.map(lambda value: json.dumps(value).encode())),
    st.integers(0, 2**64 - 1),
)
def test_fuzzed_latents(tmp_path_factory: pytest.TempPathFactory, header: bytes, length: int) -> None:
    for payload in (header, struct.pack("<Q", length) + header, struct.pack("<Q", len(header)) + header):
        root = tmp_path_factory.mktemp("latents") / "data"
        dataset = create(root, make_spec(images_per_shard=1))
        with ShardWriter(root, 0) as writer:
            writer.add(replace(make_sample(dataset.spec, 0), latents_safetensors=payload))
        with pytest.raises(DamagedError):
            dataset.trajectory(make_sample(dataset.spec, 0).sample_id)


def test_many_damages_at_once_give_our_errors_only(tmp_path: Path) -> None:
    """Twenty random bytes of every file at once, and no checksum left to lean on."""
    root = make_whole(tmp_path / "data", sealed=True).root
    whole = {path: path.read_bytes() for paths in kinds(root).values() for path in paths}
    chooser = random.Random(3)
    for _ in range(40):
        for path, data in whole.items():
            damaged = bytearray(data)
            for _ in range(20):
                damaged[chooser.randrange(len(damaged))] = chooser.randrange(256)
            if chooser.random() < 0.8:
                path.write_bytes(damaged)
        verify(root, read_data=1)
        with pytest.raises(PpodError):
            everything(root)
        for path, data in whole.items():
            path.write_bytes(data)
