"""Which files of a model are loaded and hashed, and what is refused before any is."""

import json
import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ppod_data.diffusion.models.model import embed_prompts, load_model, network
from ppod_data.diffusion.models.model_folder import resolve_model
from ppod_data.diffusion.models.skeleton import load_skeleton
from ppod_data.errors import ConfigError, PpodError
from tests.support.pipelines import (
    save_tiny_flux_pipeline,
    save_tiny_pipeline,
    save_tiny_sd3_pipeline,
    save_tiny_xl_pipeline,
)
from tests.support.transformer_pipelines import (
    save_tiny_chroma_pipeline,
    save_tiny_flux_2_dev_pipeline,
    save_tiny_klein_pipeline,
    save_tiny_lumina_2_pipeline,
    save_tiny_pixart_pipeline,
    save_tiny_qwen_image_pipeline,
    save_tiny_sana_pipeline,
    save_tiny_z_image_pipeline,
)


@pytest.fixture
def folder(tiny_pipeline: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_pipeline, tmp_path / "model"))


def edit(path: Path, **changes: Any) -> None:
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, **changes}))


def rename_to_variant(folder: Path, variant: str) -> None:
    for file in folder.glob("*/*.safetensors"):
        file.rename(file.with_name(f"{file.stem}.{variant}.safetensors"))


def test_files_beside_those_that_are_loaded_change_nothing(folder: Path) -> None:
    """Variants, pickles, other formats, notes: as a full clone or another program leaves them in the Hub's cache."""
    before = load_model(str(folder)).fingerprint
    unet = folder / "unet"
    shutil.copy(
        unet / "diffusion_pytorch_model.safetensors", unet / "diffusion_pytorch_model.fp16.safetensors"
    )
    shutil.copy(
        unet / "diffusion_pytorch_model.safetensors", unet / "diffusion_pytorch_model.non_ema.safetensors"
    )
    (unet / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    (unet / "diffusion_pytorch_model.bin.index.json").write_text("{}")
    (unet / "diffusion_pytorch_model.safetensors.index.fp16.json").write_text("{}")
    (unet / "notes.json").write_text("{}")
    for name in ("scheduler/._scheduler_config.json", "tokenizer/._vocab.json"):
        (folder / name).write_bytes(b"of macOS")
    (folder / "text_encoder" / "model.fp16-00001-of-00002.safetensors").write_bytes(b"part")
    (folder / "v1-5-pruned.safetensors").write_bytes(b"single")
    assert load_model(str(folder)).fingerprint == before
    weights = load_file(unet / "diffusion_pytorch_model.safetensors")
    save_file(
        {key: value + 1e-3 for key, value in weights.items()}, unet / "diffusion_pytorch_model.safetensors"
    )
    assert load_model(str(folder)).fingerprint != before


def test_the_weights_of_a_variant_are_loaded_where_a_part_has_them(folder: Path) -> None:
    """As in diffusers: the other parts keep their default files."""
    plain = load_model(str(folder))
    unet = folder / "unet" / "diffusion_pytorch_model.safetensors"
    changed = {key: value + 0.01 for key, value in load_file(unet).items()}
    save_file(changed, unet.with_name("diffusion_pytorch_model.fp16.safetensors"))
    fp16 = load_model(str(folder), variant="fp16")
    assert fp16.variant == "fp16" and fp16.fingerprint != plain.fingerprint
    weights = fp16.denoiser.state_dict()
    assert all(torch.equal(weights[key], value) for key, value in changed.items())
    with pytest.raises(ConfigError, match="has no weights of the variant bf16: leave out --variant"):
        load_model(str(folder), variant="bf16")
    with pytest.raises(ConfigError, match="--variant"):
        load_model(str(folder), variant="../fp16")


def test_a_folder_with_a_variant_alone_names_the_option(folder: Path) -> None:
    rename_to_variant(folder, "fp16")
    with pytest.raises(ConfigError, match=r"has only variants of its \w+ \(fp16\): give --variant fp16"):
        load_model(str(folder))
    assert load_model(str(folder), variant="fp16").variant == "fp16"


def test_sharded_weights_are_those_that_the_index_names(folder: Path) -> None:
    place = folder / "unet"
    single = place / "diffusion_pytorch_model.safetensors"
    weights = load_file(single)
    single.unlink()
    keys = sorted(weights)
    parts = {"a.safetensors": keys[::2], "b.safetensors": keys[1::2]}
    for name, own in parts.items():
        save_file({key: weights[key] for key in own}, place / name)
    index = place / "diffusion_pytorch_model.safetensors.index.json"
    weight_map = {key: name for name, own in parts.items() for key in own}
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    before = load_model(str(folder)).fingerprint
    shutil.copy(place / "a.safetensors", place / "c.safetensors")
    assert load_model(str(folder)).fingerprint == before
    (place / "b.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"has no unet/b\.safetensors"):
        load_model(str(folder))
    index.write_text(json.dumps({"weight_map": {"x": "../../other.safetensors"}}))
    with pytest.raises(ConfigError, match="names no weight files"):
        load_model(str(folder))


UNSERVED: list[tuple[str, Callable[[Path], Path], str, dict[str, Any], str]] = [
    (
        "LCM",
        save_tiny_pipeline,
        "unet",
        {"time_cond_proj_dim": 8},
        "time_cond_proj_dim 8 .a latent consistency model",
    ),
    ("inpainting", save_tiny_pipeline, "unet", {"in_channels": 9}, r"takes 9 channels \(inpainting\)"),
    ("editing", save_tiny_pipeline, "unet", {"in_channels": 8}, r"takes 8 channels \(image editing\)"),
    ("variance", save_tiny_pipeline, "unet", {"out_channels": 8}, "gives 8"),
    ("classes", save_tiny_pipeline, "unet", {"class_embed_type": "timestep"}, "class_embed_type 'timestep'"),
    ("numbered classes", save_tiny_pipeline, "unet", {"num_class_embeds": 10}, "num_class_embeds 10"),
    ("added text", save_tiny_pipeline, "unet", {"addition_embed_type": "text"}, "addition_embed_type 'text'"),
    (
        "added image",
        save_tiny_pipeline,
        "unet",
        {"encoder_hid_dim_type": "image_proj"},
        "encoder_hid_dim_type",
    ),
    ("GLIGEN", save_tiny_pipeline, "unet", {"attention_type": "gated"}, "attention_type 'gated' .GLIGEN"),
    (
        "new key",
        save_tiny_pipeline,
        "unet",
        {"time_warp": 3},
        "time_warp '3', which this version does not know",
    ),
    ("quantized", save_tiny_pipeline, "unet", {"quantization_config": {"bits": 4}}, "quantization_config"),
    (
        "other weights",
        save_tiny_pipeline,
        "text_encoder",
        {"transformers_weights": "x.safetensors"},
        "transformers_weights",
    ),
    ("width", save_tiny_pipeline, "text_encoder", {"hidden_size": 32}, "cross_attention_dim 16, .* give 32"),
    (
        "FLUX.2's guidance",
        save_tiny_klein_pipeline,
        "transformer",
        {"guidance_embeds": True},
        "guidance_embeds True",
    ),
    (
        "few layers",
        save_tiny_klein_pipeline,
        "text_encoder",
        {"num_hidden_layers": 4},
        "has 4 layers, and layer 27",
    ),
    ("three widths", save_tiny_klein_pipeline, "text_encoder", {"hidden_size": 32}, "48, .* give 96"),
    (
        "chroma's width",
        save_tiny_chroma_pipeline,
        "text_encoder",
        {"d_model": 32},
        "joint_attention_dim 16, .* 32",
    ),
    ("omni", save_tiny_z_image_pipeline, "transformer", {"siglip_feat_dim": 8}, "siglip_feat_dim 8"),
    (
        "patches",
        save_tiny_z_image_pipeline,
        "transformer",
        {"all_patch_size": [2, 4]},
        "all_patch_size .2, 4.",
    ),
    ("edit", save_tiny_qwen_image_pipeline, "transformer", {"zero_cond_t": True}, "zero_cond_t True"),
    ("layers", save_tiny_qwen_image_pipeline, "transformer", {"use_layer3d_rope": True}, "use_layer3d_rope"),
    ("alpha", save_tiny_qwen_image_pipeline, "vae", {"input_channels": 4}, "input_channels 4"),
    (
        "other VAE",
        save_tiny_qwen_image_pipeline,
        "vae",
        {"z_dim": 16},
        "takes 4 channels and gives 4, .* have 16",
    ),
    (
        "PixArt-α",
        save_tiny_pixart_pipeline,
        "transformer",
        {"use_additional_conditions": None, "sample_size": 128},
        "use_additional_conditions True .PixArt-α",
    ),
    (
        "PixArt's width",
        save_tiny_pixart_pipeline,
        "text_encoder",
        {"d_model": 32},
        "caption_channels 16, .* 32",
    ),
    ("Sprint", save_tiny_sana_pipeline, "transformer", {"guidance_embeds": True}, "guidance_embeds True"),
    ("Sana's VAE", save_tiny_sana_pipeline, "vae", {"latent_channels": 8}, "takes 4 channels .* have 8"),
    (
        "no scale",
        save_tiny_flux_2_dev_pipeline,
        "transformer",
        {"guidance_embeds": False},
        "guidance_embeds False",
    ),
    (
        "Lumina's width",
        save_tiny_lumina_2_pipeline,
        "text_encoder",
        {"hidden_size": 32},
        "cap_feat_dim 16, .* 32",
    ),
    ("latents", save_tiny_pipeline, "vae", {"latent_channels": 16}, "its VAE's latents have 16"),
    ("grey", save_tiny_pipeline, "vae", {"in_channels": 1}, "its vae has in_channels 1"),
    ("no size", save_tiny_pipeline, "unet", {"sample_size": None}, "sample_size None"),
    ("another class", save_tiny_pipeline, "unet", {"_class_name": "UNet2DModel"}, "is of a UNet2DModel"),
    (
        "long schedule",
        save_tiny_pipeline,
        "scheduler",
        {"num_train_timesteps": 4_000_000_000},
        "num_train_timesteps",
    ),
    (
        "no XL conditions",
        save_tiny_xl_pipeline,
        "unet",
        {"addition_embed_type": None},
        "addition_embed_type None",
    ),
    ("refiner", save_tiny_xl_pipeline, "unet", {"projection_class_embeddings_input_dim": 52}, "refiners"),
    ("SD3 depth", save_tiny_sd3_pipeline, "transformer", {"in_channels": 8}, "takes 8 channels"),
    ("SD3 key", save_tiny_sd3_pipeline, "transformer", {"extra_conditioning_channels": 4}, "does not know"),
    (
        "FLUX fill",
        save_tiny_flux_pipeline,
        "transformer",
        {"in_channels": 96, "out_channels": 16},
        "takes 24 channels",
    ),
    ("FLUX patches", save_tiny_flux_pipeline, "transformer", {"patch_size": 2}, "patch_size 2"),
]


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> dict[Callable[..., Path], Path]:
    root = tmp_path_factory.mktemp("pipelines")
    savers = {save for _, save, *_ in UNSERVED}
    return {save: save(root / save.__name__) for save in savers}


def test_networks_that_would_be_called_wrongly_are_refused_before_their_weights_are_read(
    pipelines: dict[Callable[..., Path], Path], tmp_path: Path
) -> None:
    """Without weights there is nothing else to fail on: also where the skeleton alone is asked for."""
    for name, save, part, changes, message in UNSERVED:
        copy = tmp_path / name.replace(" ", "-")
        shutil.copytree(pipelines[save], copy, ignore=shutil.ignore_patterns("*.safetensors"))
        file = copy / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
        edit(file, **changes)
        for load in (load_model, load_skeleton):
            with pytest.raises(ConfigError, match=message):
                load(str(copy))


def test_weights_that_do_not_fit_are_refused_and_named(folder: Path) -> None:
    """diffusers draws what is missing at random, and drops what is left, with a warning."""
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    first, *rest = sorted(weights)
    changed = (
        ({key: weights[key] for key in rest}, f"the file lacks {first}"),
        ({**weights, "extra.weight": torch.ones(2)}, "without a place for it, extra.weight"),
        ({**weights, first: torch.ones(3)}, first),
    )
    for tensors, message in changed:
        save_file(tensors, file)
        with pytest.raises(ConfigError, match=message) as error:
            load_model(str(folder))
        assert "\n" not in str(error.value)


def test_weights_that_cannot_be_loaded_say_why(folder: Path) -> None:
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    good = file.read_bytes()
    file.write_bytes(good[: len(good) // 2])
    with pytest.raises(ConfigError, match=r"its unet cannot be loaded: .*[Ss]afe"):
        load_model(str(folder))
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(PpodError, match="git lfs pull"):
        load_model(str(folder))
    file.unlink()
    (file.with_suffix(".bin")).write_bytes(b"pickle")
    with pytest.raises(ConfigError, match=r"pickled .*never loaded"):
        load_model(str(folder))
    os.mkfifo(file)
    with pytest.raises(ConfigError, match="not a complete pipeline"):
        load_model(str(folder))


def test_no_code_of_a_folder_is_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules that the index names, a custom pipeline, tokenizers with code of their own."""
    code = (
        "import pathlib; pathlib.Path('executed').touch()\nfrom diffusers import UNet2DConditionModel as X\n"
    )
    index = json.loads((folder / "model_index.json").read_text())
    for name in ("evil.py", "pipeline.py", "None.py", "unet/evil.py", "tokenizer/evil.py"):
        (folder / name).write_text(code)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    attempts: list[dict[str, Any]] = [
        {"unet": ["evil", "X"]},
        {"unet": ["os", "system"]},
        {"unet": ["diffusers", "UNet2DModel"]},
        {"vae": ["diffusers", "AutoencoderTiny"]},
        {"scheduler": ["evil", "X"]},
        {"scheduler": ["diffusers", "UNet2DConditionModel"]},
        {"zzz": ["evil", "X"]},
        {"_class_name": ["pipeline", "StableDiffusionPipeline"]},
        {"_class_name": None},
        {"tokenizer": ["transformers", "AutoTokenizer"]},
        {"unet": ["diffusers"]},
        {"unet": [None, None]},
    ]
    for changes in attempts:
        (folder / "model_index.json").write_text(json.dumps({**index, **changes}))
        for load in (load_model, load_skeleton):
            with pytest.raises(ConfigError):
                load(str(folder))
    (folder / "model_index.json").write_text(json.dumps(index))
    config = folder / "tokenizer" / "tokenizer_config.json"
    edit(config, auto_map={"AutoTokenizer": ["evil.X", "evil.X"]})
    load_model(str(folder))
    assert not (folder / "executed").exists()
    for text in ("[]", "{", "[" * 100_000):
        (folder / "model_index.json").write_text(text)
        with pytest.raises(ConfigError, match=r"model_index\.json"):
            load_model(str(folder))


def test_a_single_file_names_the_command_that_makes_a_folder_of_it(tmp_path: Path) -> None:
    signs = {
        "model.diffusion_model.input_blocks.0.0.weight": "StableDiffusionPipeline",
        "conditioner.embedders.1.model.ln_final.bias": "StableDiffusionXLPipeline",
        "model.diffusion_model.joint_blocks.0.x_block.attn.proj.bias": "StableDiffusion3Pipeline",
        "double_blocks.0.img_attn.norm.key_norm.scale": "FluxPipeline",
        "distilled_guidance_layer.in_proj.bias": "ChromaPipeline",
        "layers.0.adaLN_modulation.0.weight": "ZImagePipeline",
    }
    for key, class_name in signs.items():
        file = tmp_path / "it's mine.safetensors"
        save_file({key: torch.ones(1)}, file)
        with pytest.raises(ConfigError, match="single-file checkpoint") as error:
            load_model(str(file))
        words = shlex.split(str(error.value).split("--model: ", 1)[1])
        assert words[:2] == ["python", "-c"] and compile(words[2], "command", "exec")
        assert f"import {class_name} as" in words[2] and json.dumps(str(file)) in words[2]
    flux_2 = "single_stream_modulation.lin.weight"
    for keys, pipeline, class_name in (
        ([flux_2], "Flux2KleinPipeline", "Flux2Transformer2DModel"),
        ([flux_2, "guidance_in.in_layer.weight"], "Flux2Pipeline", "Flux2Transformer2DModel"),
        (["transformer_blocks.0.img_mod.1.weight"], "QwenImagePipeline", "QwenImageTransformer2DModel"),
    ):
        save_file({key: torch.ones(1) for key in keys}, file)
        with pytest.raises(ConfigError, match=f"alone.* its {pipeline}, with {class_name}.from_single_file"):
            load_model(str(file))
    (tmp_path / "old.ckpt").write_bytes(b"pickle")
    with pytest.raises(ConfigError, match="no safetensors, which is never loaded"):
        load_model(str(tmp_path / "old.ckpt"))
    with pytest.raises(ConfigError, match="no such file"):
        load_model("./absent.safetensors")


def test_a_name_that_the_hub_cannot_be_asked_for_says_what_to_do(tmp_path: Path) -> None:
    """The tests run offline, as many clusters do."""
    with pytest.raises(ConfigError, match=r"cannot be reached .offline.: .*hf download owner/name") as error:
        resolve_model("owner/name", None)
    assert str(error.value).endswith("give it as --model")
    with pytest.raises(ConfigError, match=r"unknown model a/b/c: give scenes"):
        resolve_model("a/b/c", None)
    run = tmp_path / "run"
    (run / "policy").mkdir(parents=True)
    (run / "policy" / "pytorch_lora_weights.safetensors").write_bytes(b"")
    with pytest.raises(ConfigError, match=rf"{run / 'policy'} holds LoRA weights: give it as --adapter"):
        resolve_model(str(run), None)


def test_loading_and_embedding_print_nothing(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """diffusers warns of an Euler scheduler's missing offset, transformers of a long prompt."""
    from diffusers import EulerDiscreteScheduler

    EulerDiscreteScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012).save_pretrained(
        folder / "scheduler"
    )
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "EulerDiscreteScheduler"]
    (folder / "model_index.json").write_text(json.dumps(index))
    capfd.readouterr()
    import warnings

    with warnings.catch_warnings(record=True) as warned:
        model = load_model(str(folder))
        condition = embed_prompts(model, ["a very long prompt " * 20], "", 1.0)
    assert not warned and capfd.readouterr() == ("", "")
    network(model)(torch.zeros(1, *model.latent_shape), torch.tensor([1]), condition.of([0]))


def test_fp32_is_never_tf32(folder: Path) -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    load_model(str(folder))
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32


def test_attention_with_a_faulty_backward_pass_is_off(folder: Path) -> None:
    torch.backends.cuda.enable_cudnn_sdp(True)
    load_model(str(folder))
    assert not torch.backends.cuda.cudnn_sdp_enabled()
