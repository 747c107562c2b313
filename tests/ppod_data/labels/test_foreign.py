"""Images that no policy made become an ordinary data set: every byte of them kept, every chain replayed exactly."""

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from ppod_data.dataset.dataset import Dataset
from ppod_data.diffusion.ddim import build_ddim_schedule
from ppod_data.diffusion.models.encode import encode_images, fit_image
from ppod_data.diffusion.models.model import DiffusionModel, load_model, resized
from ppod_data.errors import ConfigError, SpecMismatchError
from ppod_data.format.images import decode_image, pixels_sha256
from ppod_data.format.spec import to_json
from ppod_data.generation.build_spec import build_spec
from ppod_data.generation.generate import GenerateSummary, generate
from ppod_data.generation.log_probs import compute_log_probs
from ppod_data.inspect.card import write_card
from ppod_data.integrity.replay import replay
from ppod_data.integrity.seal import seal
from ppod_data.integrity.verify import verify
from ppod_data.labels.files.records import read_tables
from ppod_data.labels.foreign import build_dataset
from ppod_data.labels.importing import import_labels
from ppod_data.publish.export_images import export
from ppod_data.scoring.score import score
from ppod_data.support.canonical_json import canonical_json
from ppod_data.support.noise import standard_normal
from tests.support.damage import Brightness
from tests.support.durable_data import kill_everywhere
from tests.support.faults import temporaries, visible
from tests.support.foreign_cases import PROMPTS, picture, row, rows, write_parquet
from tests.support.pipelines import save_tiny_flux_pipeline, save_tiny_sd3_pipeline
from tests.support.progress import Watch
from tests.support.transformer_pipelines import (
    save_tiny_flux_2_dev_pipeline,
    save_tiny_klein_pipeline,
    save_tiny_lumina_2_pipeline,
    save_tiny_qwen_image_pipeline,
    save_tiny_sana_pipeline,
)

STRIDE = 60
"""Of the writes that are struck."""
OPTIONS = {"num_inference_steps": 3, "batch_size": 2, "images_per_shard": 4}


def make(root: Path, file: Path, model: DiffusionModel, **options: Any) -> GenerateSummary:
    return build_dataset(root, file, model, format="pickapic", **OPTIONS | options)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_parquet(tmp_path_factory.mktemp("file") / "votes.parquet", rows())


@pytest.fixture(scope="module")
def dataset(file: Path, tiny_model: DiffusionModel, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Nine images of three prompts in three shards, with the labels of the file."""
    root = tmp_path_factory.mktemp("foreign") / "data"
    made = make(root, file, tiny_model)
    assert (made.num_samples, made.num_made, made.num_shards_made) == (9, 9, 3)
    import_labels(Dataset.open(root), file, format="pickapic", name="people")
    write_card(root)
    return Dataset.open(root)


def test_every_image_is_there_once_for_each_prompt_in_the_files_order(dataset: Dataset) -> None:
    samples = dataset.samples(["prompt", "image_index"]).to_pylist()
    expected = [(PROMPTS[0], k) for k in range(3)] + [(PROMPTS[1], k) for k in range(2)]
    expected += [(PROMPTS[2], k) for k in range(4)]
    assert [(one["prompt"], one["image_index"]) for one in samples] == expected
    assert dataset.manifest["version"] == 2 and dataset.manifest["spec"]["origin"] == "forward-process"
    assert [len(one) for one in dataset.spec.images] == [3, 2, 4]


def test_the_bytes_of_the_images_are_kept(dataset: Dataset) -> None:
    given = {data for one in rows() for data in (one["jpg_0"], one["jpg_1"])}
    samples = dataset.samples().to_pylist()
    assert {one["image"]["bytes"] for one in samples} == given
    for one, named in zip(samples, [x for images in dataset.spec.images for x in images], strict=True):
        assert one["image_sha256"] == named
        assert one["image_pixels_sha256"] == pixels_sha256(decode_image(one["image"]["bytes"]))
        suffix = "png" if one["image"]["bytes"].startswith(b"\x89PNG") else "jpg"
        assert one["image"]["path"] == f"{one['sample_id']}.{suffix}"


def test_the_labels_are_on_these_images(dataset: Dataset) -> None:
    samples = {one["sample_id"]: one for one in dataset.samples().to_pylist()}
    labels = dataset.labels("people").to_pylist()
    for label, given in zip(labels, rows(), strict=True):
        a, b = samples[label["a_id"]], samples[label["b_id"]]
        assert (a["image"]["bytes"], b["image"]["bytes"]) == (given["jpg_0"], given["jpg_1"])
        assert a["prompt"] == b["prompt"] == given["caption"] and label["label"] == given["label_0"]
    assert dataset.pairs("people").num_rows == 5


def test_replay_is_exact_and_every_byte_verifies(dataset: Dataset, tiny_model: DiffusionModel) -> None:
    found = replay(dataset, tiny_model, num_trajectories=9)
    assert found.num_trajectories == 9 and found.share_exact == 1.0
    report = verify(dataset.root, read_data=True)
    assert not report.findings and report.num_samples == 9


def test_images_of_another_size_than_the_models_are_those_of_their_chains(
    file: Path, tiny_model: DiffusionModel, tmp_path: Path
) -> None:
    make(tmp_path / "data", file, tiny_model, height=2 * tiny_model.height, width=tiny_model.width)
    found = replay(Dataset.open(tmp_path / "data"), tiny_model, num_trajectories=9)
    assert found.share_exact == 1.0 and found.other_images == ()


def test_the_chain_starts_from_noise_of_its_own_purpose_on_the_encoded_image(
    dataset: Dataset, tiny_model: DiffusionModel
) -> None:
    spec = dataset.spec
    batch = [fit_image(tiny_model, decode_image(one["jpg_0"])) for one in rows()[:1]]
    batch += [fit_image(tiny_model, decode_image(rows()[0]["jpg_1"]))]
    encoded = encode_images(tiny_model, batch)
    chain = dataset.trajectory(spec.sample_id(spec.prompt_ids[0], 1))
    noise = standard_normal(
        purpose="forward",
        stage=0,
        seed=0,
        prompt_id=spec.prompt_ids[0],
        image_index=1,
        stream="initial",
        shape=spec.latent_shape,
    )
    schedule = build_ddim_schedule(spec.scheduler, 3, 1.0)
    alpha, beta = schedule.sqrt_alpha[0], schedule.sqrt_beta[0]
    torch.testing.assert_close(chain.latents[0], alpha * encoded[1] + beta * torch.from_numpy(noise))


def test_encoding_is_the_scaled_mode_at_the_models_size(tiny_model: DiffusionModel) -> None:
    """An image of the model's size is encoded as it is; another covers it and is cropped around the centre."""
    vae = tiny_model.pipeline.vae
    image = decode_image(picture(1, (16, 16), "PNG"))
    assert fit_image(tiny_model, image).tobytes() == image.tobytes()
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).reshape(1, 16, 16, 3)
    pixels = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        expected = vae.encode(pixels).latent_dist.mean * vae.config.scaling_factor
    torch.testing.assert_close(encode_images(tiny_model, [image]), expected, rtol=1e-5, atol=1e-6)
    wide = Image.new("RGB", (48, 16), "red")
    wide.paste("blue", (16, 0, 32, 16))
    assert fit_image(tiny_model, wide).getcolors() == [(256, (0, 0, 255))]


def test_a_shift_is_taken_off_before_the_scale(tmp_path: Path) -> None:
    model = load_model(str(save_tiny_sd3_pipeline(tmp_path / "sd3")))
    vae, image = model.pipeline.vae, decode_image(picture(1, (16, 16), "PNG"))
    pixels = model.pipeline.image_processor.preprocess([image])
    with torch.no_grad():
        expected = (vae.encode(pixels).latent_dist.mean - 0.06) * 1.5
    torch.testing.assert_close(encode_images(model, [image]), expected)


def test_shards_are_made_alone_in_any_order(
    dataset: Dataset, file: Path, tiny_model: DiffusionModel, tmp_path: Path
) -> None:
    """Another file with the same images in the same order, killed after its first shard."""
    others = [one | {"label_0": 0.5, "label_1": 0.5, "ranking_id": 9} for one in rows()]
    other = write_parquet(tmp_path / "other.parquet", others)

    class Killed(Exception):
        pass

    def stop(text: str) -> None:
        if text.endswith("made"):
            raise Killed

    for _ in range(3):
        with pytest.raises(Killed):
            make(tmp_path / "data", other, tiny_model, progress=Watch({"note": stop}))
    assert make(tmp_path / "data", other, tiny_model).num_made == 0
    for folder in ("samples", "trajectories"):
        for path in (dataset.root / folder).iterdir():
            assert (tmp_path / "data" / folder / path.name).read_bytes() == path.read_bytes()
    assert temporaries(tmp_path / "data") == []


def test_killed_anywhere_and_run_again(
    tiny_model: DiffusionModel, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The secret of the annotators, which is random, is held fixed."""
    monkeypatch.setattr("ppod_data.labels.importing.read_salt", lambda dataset: bytes(32))

    def work(root: Path) -> None:
        make(root, file, tiny_model, num_inference_steps=2)
        import_labels(Dataset.open(root), file, format="pickapic", name="people")
        write_card(root)

    for name in ("start", "end"):
        (tmp_path / name).mkdir()
    work(tmp_path / "end")
    assert kill_everywhere(work, tmp_path / "start", tmp_path / "end", tmp_path, STRIDE) > 3


def test_other_images_or_options_are_refused(
    dataset: Dataset, file: Path, tiny_model: DiffusionModel, tmp_path: Path
) -> None:
    before = visible(dataset.root)
    fewer = write_parquet(tmp_path / "fewer.parquet", rows()[:4])
    with pytest.raises(SpecMismatchError, match=r"num_images_per_prompt differs: 4 in"):
        make(dataset.root, fewer, tiny_model)
    with pytest.raises(SpecMismatchError, match="seed differs"):
        make(dataset.root, file, tiny_model, seed=1)
    with pytest.raises(SpecMismatchError, match="origin differs: 'forward-process' in the data set"):
        spec = build_spec(tiny_model, prompts=PROMPTS)
        generate(dataset.root, spec, tiny_model, shards=[0])
    assert visible(dataset.root) == before and temporaries(dataset.root) == []


def test_images_with_the_same_pixels_are_one_for_a_prompt_and_told_apart_by_the_prompt(
    tiny_model: DiffusionModel, tmp_path: Path
) -> None:
    png = picture(1, kind="PNG")
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png)).save(buffer, "PNG", compress_level=0)
    again, other = buffer.getvalue(), picture(2)
    assert again != png
    file = write_parquet(
        tmp_path / "votes.parquet",
        [row("a cat", png, other), row("a cat", other, again, 0.0), row("a dog", again, other)],
    )
    make(tmp_path / "data", file, tiny_model)
    dataset = Dataset.open(tmp_path / "data")
    assert [len(one) for one in dataset.spec.images] == [2, 2]
    import_labels(dataset, file, format="pickapic", name="people")
    assert dataset.labels("people")["prompt"].to_pylist() == ["a cat", "a cat", "a dog"]
    assert dataset.pairs("people").num_rows == 2


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no-bytes": (row("a cat", None, picture(1)), "has no bytes in the file, and no such image file"),
    "no-image": (row("a cat", b"no image", picture(1)), "cannot decode this image"),
    "itself": (row("a cat", picture(1), picture(1)), "an image compared with itself"),
    "control": (row("a\x07cat", picture(1), picture(2)), "the prompt holds the control character"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_row_without_usable_images_stops_before_anything_is_there(
    tiny_model: DiffusionModel, tmp_path: Path, name: str
) -> None:
    bad, message = BAD[name]
    file = write_parquet(tmp_path / "votes.parquet", [*rows(), bad])
    with pytest.raises(ConfigError, match=rf"votes\.parquet:7: .*{message}.*--skip-bad"):
        make(tmp_path / "data", file, tiny_model)
    assert not (tmp_path / "data").exists()
    assert make(tmp_path / "data", file, tiny_model, skip_bad=True).num_samples == 9
    summary = import_labels(
        Dataset.open(tmp_path / "data"), file, format="pickapic", name="people", skip_bad=True
    )
    assert summary.num_rejected == 1 and summary.num_preferences + summary.num_ties == 6
    assert '"record": 7' in (tmp_path / "data" / "labels" / "people.rejects.jsonl").read_text()


def test_a_file_without_images_is_told_what_to_do(tiny_model: DiffusionModel, tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "votes.parquet", [row("a cat", None, None)])
    with pytest.raises(ConfigError, match="no answer has its images in the file or next to it"):
        make(tmp_path / "data", file, tiny_model, skip_bad=True)
    assert not (tmp_path / "data").exists()


def test_a_file_is_read_in_flat_memory(tmp_path: Path) -> None:
    """Of 32 row groups of a megabyte each no more than a few are held at once."""
    schema = pa.schema([("jpg_0", pa.binary())])
    with pq.ParquetWriter(tmp_path / "votes.parquet", schema, compression="none") as writer:
        for group in range(32):
            random = np.random.default_rng(group)
            data = [random.bytes(1 << 14) for _ in range(64)]
            writer.write_table(pa.table({"jpg_0": data}, schema=schema))
    before = pa.total_allocated_bytes()
    held = [pa.total_allocated_bytes() - before for _ in read_tables(tmp_path / "votes.parquet")]
    assert len(held) == 32 and max(held) < 8 << 20


def test_images_may_lie_beside_the_file(tiny_model: DiffusionModel, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for name in ("one", "two"):
        (tmp_path / "pictures" / f"{name}.webp").write_bytes(picture(len(name) + ord(name[0]), kind="WEBP"))
    with (tmp_path / "votes.csv").open("w", newline="") as out:
        csv.writer(out).writerows(
            [("prompt", "a", "b", "label"), ("a cat", "pictures/one.webp", "pictures/two.webp", "b")]
        )
    build_dataset(tmp_path / "data", tmp_path / "votes.csv", tiny_model, format="table", **OPTIONS)
    dataset = Dataset.open(tmp_path / "data")
    import_labels(dataset, tmp_path / "votes.csv", format="table", name="people")
    chosen = dataset.pairs("people")["chosen_id"][0].as_py()
    samples = {one["sample_id"]: one["image"] for one in dataset.samples(["sample_id", "image"]).to_pylist()}
    assert samples[chosen] == {
        "bytes": (tmp_path / "pictures" / "two.webp").read_bytes(),
        "path": f"{chosen}.webp",
    }


FLOWS = (
    save_tiny_sd3_pipeline,
    save_tiny_flux_pipeline,
    save_tiny_klein_pipeline,
    save_tiny_qwen_image_pipeline,
    save_tiny_flux_2_dev_pipeline,
    save_tiny_sana_pipeline,
    save_tiny_lumina_2_pipeline,
)
SCALES = {save_tiny_flux_pipeline: 3.5, save_tiny_flux_2_dev_pipeline: 4.0}
"""Of networks that read a guidance scale."""


@pytest.mark.parametrize("save", FLOWS)
def test_chains_of_flow_matching_models_end_at_the_images(
    save: Callable[[Path], Path], file: Path, tmp_path: Path
) -> None:
    """Replay is exact, the last latent is the encoded image, and the scale that a network reads is its own."""
    model = load_model(str(save(tmp_path / "flow")))
    build_dataset(
        tmp_path / "data", file, model, format="pickapic", num_inference_steps=4, height=16, width=16
    )
    dataset = Dataset.open(tmp_path / "data")
    spec = dataset.spec
    assert spec.scheduler["step"] == "coefficient-preserving" and spec.noisy_range == range(4)
    assert spec.guidance_scale == SCALES.get(save, 1.0)
    row = dataset.samples(["sample_id", "image", "stochastic"]).to_pylist()[0]
    assert row["stochastic"] == [True, True, True, False]
    sized = resized(model, 16, 16)
    [x_0] = encode_images(sized, [fit_image(sized, decode_image(row["image"]["bytes"]))])
    latents = dataset.trajectory(row["sample_id"]).latents
    torch.testing.assert_close(torch.as_tensor(latents[-1]).float(), x_0, rtol=0, atol=1e-4)
    assert compute_log_probs(dataset, model, name="again").max_difference == 0.0


def test_it_is_scored_sealed_and_exported_like_any_other(dataset: Dataset, tmp_path: Path) -> None:
    score(dataset, Brightness(), name="brightness")
    assert dataset.scores("brightness").num_rows == 9
    seal(dataset.root)
    assert not verify(dataset.root, read_data=True).findings
    export(dataset, tmp_path / "out")
    given = {one["image"]["bytes"] for one in dataset.samples(["image"]).to_pylist()}
    out = {path.read_bytes() for path in (tmp_path / "out").rglob("*.*") if path.suffix in (".jpg", ".png")}
    assert out == given
    card = (dataset.root / "README.md").read_text()
    assert "The images were given" in card and "none is a photograph" not in card


def test_the_zero_variance_step_has_no_log_probability(
    tiny_model: DiffusionModel, file: Path, tmp_path: Path
) -> None:
    """DDIM's last step is deterministic under these timesteps, as in a generated chain."""
    model = DiffusionModel(
        **{
            **vars(tiny_model),
            "scheduler_config": tiny_model.scheduler_config | {"set_alpha_to_one": True},
        }
    )
    assert make(tmp_path / "data", file, model).deterministic_steps == (2,)
    rows = Dataset.open(tmp_path / "data").samples(["log_probs", "stochastic"]).to_pylist()
    assert all(one["stochastic"] == [True, True, False] and one["log_probs"][2] is None for one in rows)


def test_the_manifest_of_a_policys_data_set_is_what_it_was(tiny_model: DiffusionModel) -> None:
    """Neither key nor version of given images reaches a generated data set."""
    values = to_json(build_spec(tiny_model, prompts=PROMPTS))
    assert values["version"] == 1 and not {"origin", "images"} & values.keys()
    assert "forward" not in canonical_json(values)


def test_given_images_of_another_size_with_noise_in_a_window_replay_exactly(
    file: Path, tiny_model: DiffusionModel, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    made = make(root, file, tiny_model, height=24, width=8, noisy_steps="1:2")
    assert made.deterministic_steps == (0, 2)
    dataset = Dataset.open(root)
    spec = dataset.spec
    assert (spec.version, spec.noisy_steps, spec.latent_shape) == (4, "1:2", (4, 12, 4))
    replayed = replay(dataset, tiny_model, num_trajectories=9)
    assert (replayed.steps, replayed.share_exact, replayed.other_images) == ((1,), 1.0, ())
    with pytest.raises(ConfigError, match="makes multiples of 2 pixels: give 16"):
        make(tmp_path / "odd", file, tiny_model, height=17)
