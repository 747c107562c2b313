"""docs/formats.md is complete and true: a stranger reads a data set with it and without our code."""

import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pyarrow as pa
import pytest
from safetensors.torch import load

from ppod_data.format.spec import GenerationSpec, to_json
from ppod_data.format.tables import CHECKED_SAMPLES, LABELS, LOG_PROBS, PAIRS, SCORES
from tests.support.toy import make_dataset, make_sample, make_spec

TEXT = (Path(__file__).parents[3] / "docs" / "formats.md").read_text()
SECTIONS = {
    "samples/000012.parquet": CHECKED_SAMPLES,
    "scores/<name>/000012.parquet": SCORES,
    "log_probs/<name>/000012.parquet": LOG_PROBS,
    "labels/<name>.parquet": LABELS,
    "pairs/<name>.parquet": PAIRS,
}
TYPES = {
    "string": pa.string(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "bool": pa.bool_(),
    "list of T int32": pa.list_(pa.int32()),
    "list of int32": pa.list_(pa.int32()),
    "list of T bool": pa.list_(pa.bool_()),
    "list of T double": pa.list_(pa.float64()),
    "struct of `bytes` (binary) and `path` (string)": pa.struct({"bytes": pa.binary(), "path": pa.string()}),
}


def section(title: str) -> str:
    return TEXT.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def table(text: str) -> dict[str, str]:
    """First and second cell of each row of the text's tables whose first cell is code."""
    rows = re.findall(r"^\| (`[^|]*`) \| ([^|]*) \|", text, flags=re.MULTILINE)
    return {name: kind for names, kind in rows for name in re.findall(r"`([^`]*)`", names)}


@pytest.mark.parametrize("title", SECTIONS)
def test_every_column_is_described_with_its_type_and_nothing_else_is(title: str) -> None:
    described = {name: TYPES[kind] for name, kind in table(section(title)).items()}
    schema = SECTIONS[title]
    assert list(described) == schema.names
    assert {name: schema.field(name).type for name in schema.names} == described


def test_every_key_of_the_manifest_and_the_spec_is_described(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data")
    manifest, spec = section("ppod.json").split("The keys of `spec`")
    assert list(table(manifest)) == list(dataset.manifest)
    always, given = (list(table(part)) for part in spec.split("### Given images"))
    assert sorted([*always, *given]) == sorted(["version", *(field.name for field in fields(GenerationSpec))])
    assert always == list(to_json(make_spec(variant="fp16", safety_checker="c" * 64, noisy_steps="0:2")))
    assert always[:-3] == list(dataset.manifest["spec"])  # without what was not given


def test_every_member_of_the_json_in_the_tar_is_described(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data")
    [tar] = sorted((dataset.root / "trajectories").iterdir())[:1]
    first = tar.read_bytes()[512:].split(b"\n", 1)[0]
    text = section("trajectories/000012-<16 hex>.tar")
    assert {f"`{key}`" for key in json.loads(first)} <= set(re.findall(r"`\w+`", text))


def test_every_hash_column_is_defined() -> None:
    defined = table(section("Hashes and ids"))
    names = {name for schema in SECTIONS.values() for name in schema.names}
    ids = {name for name in names if "sha256" in name} | {"prompt_id", "sample_id", "pair_id"}
    assert ids | {"policy_fingerprint"} <= defined.keys()


def example() -> str:
    """The first Python block of the page."""
    return section("Read a trajectory in fifteen lines").split("```python\n")[1].split("```")[0]


def test_the_example_has_fifteen_lines_and_needs_only_public_libraries() -> None:
    lines = [line for line in example().splitlines() if line.strip()]
    assert len(lines) <= 15
    imports = set(
        re.findall(r"^(?:import|from) ([\w, ]+?)(?:\.| import| as|$)", example(), flags=re.MULTILINE)
    )
    assert imports == {"hashlib, json", "pyarrow", "safetensors"}


@pytest.mark.parametrize("store_steps", ["all", "last:2"])
def test_the_example_reads_a_trajectory_without_ppod(tmp_path: Path, store_steps: str) -> None:
    dataset = make_dataset(tmp_path / "data", store_steps=store_steps)
    code = example().replace("DATASET", str(dataset.root))
    code += "\nimport sys\nassert not any(name.startswith('ppod') for name in sys.modules)\n"
    code += "print(json.dumps([row['sample_id'], latent_index, latents.tolist()]))\n"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=tmp_path)
    sample_id, latent_index, latents = json.loads(done.stdout)
    sample = make_sample(dataset.spec, 0)
    assert sample_id == sample.sample_id
    assert latent_index == ([0, 1, 2, 3, 4] if store_steps == "all" else [2, 3, 4])
    assert latents == load(sample.latents_safetensors)["latents"].tolist()


def test_the_example_finds_a_flipped_bit(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data")
    row = dataset.samples(["traj_file", "traj_offset"]).to_pylist()[0]
    tar = dataset.root / "trajectories" / row["traj_file"]
    data = bytearray(tar.read_bytes())
    data[row["traj_offset"] + 200] ^= 1
    tar.write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-c", example().replace("DATASET", str(dataset.root))],
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0 and "AssertionError" in done.stderr


def test_the_noise_is_what_the_page_says() -> None:
    """Written from the page alone."""
    import hashlib

    import numpy as np

    from ppod_data.support.noise import standard_normal

    address = ["eval", 2, 7, "ab" * 16, 3, "steps"]
    text = json.dumps(address, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    digest = hashlib.sha256(text.encode()).digest()
    key = np.array([int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")], np.uint64)
    expected = np.random.Generator(np.random.Philox(key=key)).standard_normal((2, 4, 8, 8), dtype=np.float32)
    found = standard_normal(
        purpose="eval",
        stage=2,
        seed=7,
        prompt_id="ab" * 16,
        image_index=3,
        stream="steps",
        shape=(2, 4, 8, 8),
    )
    np.testing.assert_array_equal(found, expected)


def test_the_ids_are_what_the_page_says(tmp_path: Path) -> None:
    """Written from the page and ppod.json alone."""
    import hashlib

    dataset = make_dataset(tmp_path / "data")
    manifest = json.loads((dataset.root / "ppod.json").read_bytes())

    def name(value: object) -> str:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    identity = {k: v for k, v in manifest["spec"].items() if k not in ("model", "revision", "adapter")}
    assert name(identity) == manifest["fingerprint"]
    row = dataset.samples().to_pylist()[4]
    assert row["prompt_id"] == hashlib.sha256(row["prompt"].encode()).hexdigest()[:32]
    assert row["sample_id"] == name([manifest["fingerprint"], row["prompt_id"], row["image_index"]])[:32]
    assert row["image_sha256"] == hashlib.sha256(row["image"]["bytes"]).hexdigest()
    tar = dataset.root / "trajectories" / row["traj_file"]
    assert tar.name == f"000001-{hashlib.sha256(tar.read_bytes()).hexdigest()[:16]}.tar"
