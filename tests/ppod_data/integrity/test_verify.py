"""Every contradiction in a data set is a finding that names the file and the sample; the exit code says its kind."""

import json
import os
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from ppod_cli import data as cli
from ppod_cli.data.integrity import parse_share

from ppod_data import Dataset
from ppod_data.diffusion.models.model import DiffusionModel
from ppod_data.errors import ConfigError
from ppod_data.format.tables import LABELS, LOG_PROBS, PAIRS, SAMPLES, SCORES, read_table, write_table
from ppod_data.format.trajectory import encode_latents
from ppod_data.generation.build_spec import build_spec
from ppod_data.generation.generate import generate
from ppod_data.integrity.replay import replay
from ppod_data.integrity.verify import Finding, verify
from tests.support.command import call
from tests.support.damage import make_whole
from tests.support.refused import as_nobody, fail_to_read, public_folder
from tests.support.toy import files, flip, make_dataset, make_spec


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A whole data set without seals, exclusions or faults."""
    return make_whole(tmp_path / "data", sealed=False, excluded=False).root


def change(path: Path, schema: Any, row: int, **values: Any) -> None:
    """Write a table again with other values in one row, as a faulty or hostile writer would."""
    table = read_table(path, schema)
    rows = table.to_pylist()
    rows[row] |= values
    write_table(
        path, pa.Table.from_pylist(rows, schema=schema).replace_schema_metadata(table.schema.metadata)
    )


def damaged(root: Path, **options: Any) -> list[Finding]:
    return verify(root, **options).of("damaged")


def test_nothing_is_found_and_nothing_written(root: Path) -> None:
    before = files(root)
    for share in (0, 0.01, 1):
        report = verify(root, read_data=share)
        assert report.findings == [] and report.num_samples == 6 and report.num_shards == 2
        assert report.num_shards_read == {0: 0, 0.01: 1, 1: 2}[share]
    tables = ["scores/brightness", "log_probs/again", "labels/people", "pairs/brightness", "pairs/people"]
    assert report.tables == tables
    assert files(root) == before


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"prompt": "a wolf"}, "prompt is 'a wolf'"),
        ({"prompt_id": "0" * 32}, "prompt_id is"),
        ({"image_index": 7}, "image_index is 7"),
        ({"seed": 3}, "seed is 3"),
        ({"step_index": [0]}, r"step_index is \[0\]"),
        ({"timesteps": [1]}, "do not all have 4 values"),
        ({"log_probs": None}, "do not all have 4 values"),
        ({"log_probs": [1.0, float("nan"), 1.0, None]}, r"log_probs\[1\] is nan"),
        ({"log_probs": [1.0, None, 1.0, None]}, r"log_probs\[1\] is None, but stochastic\[1\] is True"),
        ({"traj_file": "../x.tar"}, "names the trajectory file '../x.tar'"),
        ({"traj_file": None}, "names the trajectory file None"),
        ({"traj_offset": 10**12}, "is truncated"),
        ({"traj_nbytes": 0}, "is truncated"),
        ({"traj_nbytes": None}, "is truncated"),
    ],
)
def test_a_row_that_contradicts_the_spec(root: Path, values: dict[str, Any], said: str) -> None:
    change(root / "samples" / "000000.parquet", SAMPLES, 1, **values)
    name = make_spec().shard_sample_ids(0)[1]
    found = [finding for finding in damaged(root, read_data=1) if finding.sample_id == name]
    assert any(re.search(said, finding.problem) for finding in found), found


def test_noise_outside_the_window_of_the_spec(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "data", noisy_steps="0:2").root
    assert damaged(root) == []
    noisy = {"stochastic": [True] * 3 + [False], "log_probs": [1.0, 1.0, 1.0, None]}
    change(root / "samples" / "000000.parquet", SAMPLES, 1, **noisy)
    (found,) = [finding for finding in damaged(root) if finding.sample_id]
    assert found.problem.endswith("stochastic[2] is True, but the spec draws noise in the steps 0:2 only")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"image": {"bytes": b"x", "path": "x.png"}}, "do not match its sha256"),
        ({"image": None}, "do not match its sha256"),
        ({"image_sha256": "0" * 64}, "do not match its sha256"),
        ({"image_pixels_sha256": "0" * 64}, "pixels do not match"),
        ({"traj_sha256": "0" * 64}, "is damaged"),
    ],
)
def test_what_only_reading_every_byte_finds(root: Path, values: dict[str, Any], said: str) -> None:
    change(root / "samples" / "000000.parquet", SAMPLES, 1, **values)
    name = make_spec().shard_sample_ids(0)[1]
    assert any(
        said in finding.problem and finding.sample_id == name for finding in damaged(root, read_data=1)
    )


def test_samples_in_another_order_or_of_another_data_set(root: Path, tmp_path: Path) -> None:
    part = root / "samples" / "000000.parquet"
    table = read_table(part, SAMPLES)
    for other in (table.take([1, 0, 2, 3]), table.slice(0, 3), pa.concat_tables([table, table.slice(0, 1)])):
        write_table(part, other)
        assert "not those of the spec" in damaged(root)[0].problem
    other_root = make_dataset(tmp_path / "other", seed=1).root
    shutil.copy(other_root / "samples" / "000000.parquet", part)
    assert "not those of the spec" in damaged(root)[0].problem


SCORE = ("scores/brightness/000000.parquet", SCORES)
LOGP = ("log_probs/again/000001.parquet", LOG_PROBS)
PAIR = ("pairs/brightness.parquet", PAIRS)


@pytest.mark.parametrize(
    ("where", "values", "said"),
    [
        (SCORE, {"image_pixels_sha256": "0" * 64}, "of another image"),
        (SCORE, {"score": float("inf")}, "score inf with status 'ok'"),
        (SCORE, {"score": None}, "score None with status 'ok'"),
        (SCORE, {"status": "failed: x"}, "with status 'failed: x'"),
        (SCORE, {"revision": "2"}, "mixes scorers or revisions"),
        (SCORE, {"sample_id": "0" * 32}, "not those of the shard"),
        (LOGP, {"log_probs": [1.0]}, "1 log-probabilities, not 4"),
        (LOGP, {"log_probs": [float("nan")] * 4}, "NaN"),
        (LOGP, {"sample_id": "0" * 32}, "not those of the shard"),
        (PAIR, {"chosen_id": "0" * 32}, "names a sample that is missing"),
        (PAIR, {"chosen_id": None}, "names a sample that is missing"),
        (PAIR, {"prompt_id": "0" * 32}, "the two samples are not both of its prompt"),
        (PAIR, {"label": 1.5}, "has the label 1.5"),
        (PAIR, {"label": None}, "has the label None"),
    ],
)
def test_tables_that_do_not_belong_to_the_samples(
    root: Path, where: tuple[str, Any], values: dict[str, Any], said: str
) -> None:
    change(root / where[0], where[1], 0, **values)
    found = damaged(root)
    assert [finding.file for finding in found] == [where[0]] * len(found)
    assert any(said in finding.problem for finding in found), found


def test_a_pair_of_two_prompts_or_of_one_sample(root: Path) -> None:
    ids = [name for shard in (0, 1) for name in make_spec().shard_sample_ids(shard)]
    change(root / PAIR[0], PAIRS, 0, chosen_id=ids[0], rejected_id=ids[5])
    change(root / PAIR[0], PAIRS, 1, chosen_id=ids[0], rejected_id=ids[0])
    problems = [finding.problem for finding in damaged(root)]
    assert (
        "the two samples are not both of its prompt" in problems[0]
        and "compares a sample with itself" in problems[1]
    )


def test_a_shard_beyond_the_spec(root: Path) -> None:
    shutil.copy(root / "samples" / "000001.parquet", root / "samples" / "000002.parquet")
    assert [finding.file for finding in damaged(root)] == ["samples/000002.parquet"]


def test_a_missing_tar_and_a_missing_seal_entry(tmp_path: Path) -> None:
    root = make_whole(tmp_path / "data", sealed=True).root
    tar = sorted((root / "trajectories").iterdir())[0]
    whole = tar.read_bytes()
    tar.unlink()
    assert f"trajectories/{tar.name}" in [finding.file for finding in damaged(root)]
    tar.write_bytes(whole)
    lines = (root / "SHA256SUMS").read_text().splitlines(keepends=True)
    (root / "SHA256SUMS").write_text("".join(lines[:-1]))
    [finding] = damaged(root)
    assert finding.file == "SHA256SUMS" and "does not name trajectories/" in finding.problem


@pytest.mark.parametrize(
    ("act", "code", "kind", "file"),
    [
        (lambda root: None, 0, None, None),
        (lambda root: flip(root / "pairs/brightness.parquet", 99), 3, "damaged", "pairs/brightness.parquet"),
        (lambda root: (root / "ppod.json").write_text("{"), 3, "damaged", "ppod.json"),
        (lambda root: (root / "exclusions.jsonl").write_text(""), 3, "damaged", "exclusions.jsonl"),
        (
            lambda root: (root / "scores/brightness/000001.parquet").unlink(),
            4,
            "incomplete",
            "scores/brightness/000001.parquet",
        ),
        (lambda root: (root / "samples/x.csv").write_text("x"), 4, "leftover", "samples/x.csv"),
        (
            lambda root: (root / "trajectories/000000-0123456789abcdef.tar").write_bytes(b""),
            4,
            "leftover",
            "trajectories/000000-0123456789abcdef.tar",
        ),
    ],
)
def test_exit_codes_and_json(
    root: Path, act: Callable[[Path], Any], code: int, kind: str | None, file: str | None
) -> None:
    act(root)
    done = call(cli.app, "verify", root, "--json")
    figures = json.loads(done.stdout)
    assert done.code == figures["exit_code"] == code
    found = [(finding["kind"], finding["file"]) for finding in figures["findings"]]
    assert found == ([(kind, file)] if kind else [])
    text = call(cli.app, "verify", root)
    assert text.code == code and (kind is None or f"{kind}: {file}: " in text.stdout)


@pytest.mark.parametrize(
    "pattern",
    [
        *("ppod.json", "SHA256SUMS", "samples/*.parquet", "trajectories/*.tar", "scores/*/*.parquet"),
        *("log_probs/*/SHA256SUMS", "labels/*.parquet", "pairs/*.parquet", "pairs/*.sha256", "samples"),
    ],
)
def test_without_permission_nothing_is_called_damaged(pattern: str) -> None:
    with public_folder() as folder:
        root = make_whole(folder / "data", sealed=True).root
        path = min(root.glob(pattern))
        os.chmod(path, 0)
        try:
            code, line = as_nobody(lambda: verify(root, read_data=1))
        finally:
            os.chmod(path, 0o755)
    said = f"no permission at {path} (Permission denied): check the permissions, or give another folder"
    assert (code, line) == (1, said)


@pytest.mark.parametrize("name", ["ppod.json", "samples/000001.parquet", "scores/brightness/000000.parquet"])
def test_a_disk_that_fails_is_exit_code_1_with_the_file(root: Path, name: str) -> None:
    fail_to_read(root / name)
    done = call(cli.app, "verify", root, "--read-data")
    advice = "check the disk or the mount, and run the same command again"
    assert (done.code, done.one_error()) == (1, f"Input/output error at {root / name}: {advice}")


def test_missing_shards_are_incomplete_and_so_are_pairs_of_them(root: Path) -> None:
    (root / "samples" / "000001.parquet").unlink()
    done = call(cli.app, "verify", root)
    assert done.code == 4 and "1 of 2 shards are missing, this one first: run ppod-gen again" in done.stdout


def test_no_data_set_and_bad_options_are_exit_code_2(tmp_path: Path, root: Path) -> None:
    assert call(cli.app, "verify", tmp_path / "none").code == 2
    assert call(cli.app, "verify", root, "--read-data-subset", "0%").code == 2


@pytest.mark.parametrize("text", ["5", "0%", "101%", "-1%", "x%", "5 %", ""])
def test_shares_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="for example 5%"):
        parse_share(text)


def test_a_share_of_the_shards_is_read_and_another_one_each_time(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "data", num_images_per_prompt=8, images_per_shard=1).root
    assert parse_share("12.5%") == 0.125 and parse_share(None) == 0
    assert verify(root, read_data=0.25).num_shards_read == 4
    for tar in (root / "trajectories").iterdir():
        flip(tar, 700)
    found = {damaged(root, read_data=0.01, chooser=random.Random(seed))[0].file for seed in range(8)}
    assert len(found) > 1


def test_replayed_steps_are_the_recorded_ones_and_another_model_is_refused(
    tiny_model: DiffusionModel, tmp_path: Path
) -> None:

    spec = build_spec(
        tiny_model,
        prompts=("a", "b"),
        num_images_per_prompt=3,
        num_inference_steps=3,
        batch_size=2,
        images_per_shard=3,
    )
    generate(tmp_path / "data", spec, tiny_model, shards=range(spec.num_shards))
    dataset = Dataset.open(tmp_path / "data")
    done = replay(dataset, tiny_model, num_trajectories=100)
    assert done.num_trajectories == 6 and done.share_exact == 1.0 and max(done.largest) == 0.0
    assert done.steps == (0, 1, 2) and len(done.timesteps) == len(done.median) == 3
    assert replay(dataset, tiny_model, num_trajectories=1).num_trajectories == 2
    with pytest.raises(ConfigError, match="is not the policy that made"):
        replay(dataset, replace(tiny_model, fingerprint="0" * 64), num_trajectories=1)


def test_recorded_numbers_that_the_model_does_not_give_are_drift(
    tiny_model: DiffusionModel, tiny_pipeline: Path, tmp_path: Path
) -> None:
    spec = build_spec(
        tiny_model, prompts=("a",), num_images_per_prompt=2, num_inference_steps=3, batch_size=2
    )
    generate(tmp_path / "data", spec, tiny_model, shards=[0])
    arguments = ["verify", tmp_path / "data", "--read-data", "--model", tiny_pipeline]
    assert call(cli.app, *arguments).code == 0
    part = tmp_path / "data" / "samples" / "000000.parquet"
    row = read_table(part, SAMPLES).to_pylist()[0]
    change(part, SAMPLES, 0, log_probs=[row["log_probs"][0] + 1e-3, *row["log_probs"][1:]])
    drifted = call(cli.app, "verify", tmp_path / "data", "--model", tiny_pipeline)
    assert drifted.code == 5 and "1.00e-03 (drift: more than 1e-05)" in drifted.stdout
    assert call(cli.app, "verify", tmp_path / "data", "--model", tiny_pipeline, "--max-drift", 0.01).code == 0


def test_latents_of_another_shape_are_found(root: Path) -> None:
    import torch

    from ppod_data.format.shards import ShardWriter
    from tests.support.toy import make_sample

    part = root / "samples" / "000000.parquet"
    part.unlink()
    with ShardWriter(root, 0) as writer:
        for index in range(4):
            sample = make_sample(make_spec(), index)
            if index == 2:
                sample = replace(
                    sample, latents_safetensors=encode_latents(torch.zeros(5, 4, 2, 2), range(5))
                )
            writer.add(sample)
    [finding] = damaged(root, read_data=1)
    assert finding.sample_id == make_spec().shard_sample_ids(0)[2] and "(5, 4, 2, 2)" in finding.problem


def test_a_label_is_named_by_its_number_however_many_there_are(root: Path) -> None:
    """Tables of labels and pairs are read in pieces of 1,024 rows."""
    spec = Dataset.open(root).spec
    prompt, other = spec.prompt_ids
    row = dict.fromkeys(LABELS.names) | {
        "prompt_id": prompt,
        "a_id": spec.sample_id(prompt, 0),
        "b_id": spec.sample_id(prompt, 1),
        "label": 0.5,
    }
    wrong = {
        7: ({"a_id": row["b_id"]}, "label 8 compares a sample with itself"),
        1500: ({"b_id": spec.sample_id(other, 0)}, "label 1501: the two samples are not both of its prompt"),
        1700: ({"prompt_id": other}, "label 1701: the two samples are not both of its prompt"),
        2050: ({"label": float("nan")}, "label 2051 has the label nan"),
        2999: ({"a_id": "0" * 32}, "label 3000 names a sample that is missing"),
    }
    rows = [row | (wrong[number][0] if number in wrong else {}) for number in range(3000)]
    write_table(root / "labels" / "people.parquet", pa.Table.from_pylist(rows, schema=LABELS))
    assert [finding.problem for finding in damaged(root)] == [problem for _, problem in wrong.values()]
