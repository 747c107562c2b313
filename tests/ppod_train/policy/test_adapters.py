"""An adapter is used whole and at its own scale, or refused: to sample, to start training, and as it is saved."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ppod_data.diffusion.models.copies import with_adapter
from ppod_data.diffusion.models.model import DiffusionModel, embed_prompts, load_model
from ppod_data.diffusion.models.skeleton import load_skeleton
from ppod_data.errors import ConfigError
from ppod_train.policy.policy import policy_rank, save_policy, start_from, trainable_parameters
from tests.support.loras import FORMS, RANK, factors, folder, header, named
from tests.support.pipelines import save_tiny_sd3_pipeline, save_tiny_xl_pipeline

NEW = ("unet.{}.lora_A.weight", "unet.{}.lora_B.weight")
PROMPTS = ("a cat", "two dogs")


@pytest.fixture(scope="module")
def base(tiny_pipeline: Path) -> DiffusionModel:
    return load_model(str(tiny_pipeline))


@torch.no_grad()
def predicted(unet: Any, embeds: torch.Tensor) -> torch.Tensor:
    latents = torch.randn(len(embeds), 4, 8, 8, generator=torch.Generator().manual_seed(0))
    timesteps = torch.tensor([801, 1])
    prediction: torch.Tensor = unet(latents, timesteps, encoder_hidden_states=embeds, return_dict=False)[0]
    return prediction


def ours(model: DiffusionModel) -> torch.Tensor:
    embeds = embed_prompts(model, PROMPTS, "", 1.0).of([0, 1])["prompt_embeds"]
    return predicted(model.denoiser, embeds)


def of_diffusers(pipeline: Path, adapter: Path) -> torch.Tensor:
    """What plain diffusers predicts with the adapter."""
    from diffusers import StableDiffusionPipeline

    loaded = StableDiffusionPipeline.from_pretrained(
        pipeline, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    loaded.load_lora_weights(adapter)
    embeds = [loaded.encode_prompt(prompt, "cpu", 1, False)[0] for prompt in PROMPTS]
    return predicted(loaded.unet, torch.cat(embeds))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_policy_that_diffusers_makes_of_it(
    form: str, base: DiffusionModel, tiny_pipeline: Path, tmp_path: Path
) -> None:
    """To sample, as a start, and saved by a run that started from it and loaded in plain diffusers."""
    adapter = FORMS[form](base.pipeline, tmp_path / "adapter")
    theirs = of_diffusers(tiny_pipeline, adapter)
    sampled = load_model(str(tiny_pipeline), adapter=str(adapter))
    torch.testing.assert_close(ours(sampled), theirs, rtol=0, atol=1e-5)
    assert float((theirs - ours(base)).abs().max()) > 1e-2
    assert with_adapter(load_skeleton(str(tiny_pipeline)), str(adapter)).adapter == str(adapter)

    started = load_model(str(tiny_pipeline))
    rank = policy_rank(adapter)
    parameters = trainable_parameters(started, lora_rank=rank, seed=7, start=adapter)
    assert torch.equal(ours(started), ours(base))  # the reference, until the start is put in
    assert start_from(started, adapter) == sampled.fingerprint
    assert torch.equal(ours(started), ours(sampled))
    assert parameters and all(parameter.requires_grad for parameter in parameters.values())
    save_policy(started, tmp_path / "saved")
    torch.testing.assert_close(of_diffusers(tiny_pipeline, tmp_path / "saved"), theirs, rtol=0, atol=1e-5)
    again = load_model(str(tiny_pipeline), adapter=str(tmp_path / "saved"))
    assert torch.equal(ours(again), ours(sampled))


def test_every_layer_of_a_kohya_file_has_its_own_alpha(
    base: DiffusionModel, tiny_pipeline: Path, tmp_path: Path
) -> None:
    """diffusers forgets those that are not the usual one: compared with a file of scale 1 that says the same."""
    tensors, folded = {}, {}
    for index, (name, (down, up)) in enumerate(factors(base.pipeline.unet).items()):
        key = f"lora_unet_{name.replace('.', '_')}"
        tensors |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
        if index % 3:
            tensors[f"{key}.alpha"] = torch.tensor(float(index % 3))
        folded[name] = (down, up * (index % 3 / RANK if index % 3 else 1))
    kohya = load_model(str(tiny_pipeline), adapter=str(folder(tmp_path / "kohya", tensors)))
    plain = load_model(str(tiny_pipeline), adapter=str(folder(tmp_path / "plain", named(folded, *NEW))))
    torch.testing.assert_close(ours(kohya), ours(plain), rtol=0, atol=1e-5)


def test_layers_of_text_encoders_are_used_to_sample_and_refused_as_a_start(
    base: DiffusionModel, tiny_pipeline: Path, tmp_path: Path
) -> None:
    """In diffusers' names and in kohya's, whose alphas are of each layer."""
    encoder = factors(base.pipeline.text_encoder, r"(q|k|v|out)_proj$")
    of_unet = named(factors(base.pipeline.unet), *NEW)
    diffusers = named(
        encoder,
        "text_encoder.text_model.{}.lora_linear_layer.down.weight",
        "text_encoder.text_model.{}.lora_linear_layer.up.weight",
    )
    kohya: dict[str, torch.Tensor] = {}
    for name, (down, up) in encoder.items():
        key = f"lora_te_text_model_{name.replace('.', '_')}"
        kohya |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
        kohya[f"{key}.alpha"] = torch.tensor(2.0)
    for number, tensors in enumerate((of_unet | diffusers, kohya)):
        adapter = folder(tmp_path / str(number), tensors)
        sampled = load_model(str(tiny_pipeline), adapter=str(adapter))
        torch.testing.assert_close(ours(sampled), of_diffusers(tiny_pipeline, adapter), rtol=0, atol=1e-5)
        assert float((ours(sampled) - ours(base)).abs().max()) > 1e-3
        with pytest.raises(
            ConfigError, match="changes the text_encoder too, which training does not continue"
        ):
            trainable_parameters(load_model(str(tiny_pipeline)), lora_rank=RANK, seed=0, start=adapter)


def test_dora_is_used_to_sample_and_refused_as_a_start(
    base: DiffusionModel, tiny_pipeline: Path, tmp_path: Path
) -> None:
    modules, of_unet = dict(base.denoiser.named_modules()), factors(base.pipeline.unet)
    magnitudes = {
        f"unet.{name}.lora_magnitude_vector": 2 * torch.linalg.norm(modules[name].weight + up @ down, dim=1)
        for name, (down, up) in of_unet.items()
    }
    adapter = folder(tmp_path / "dora", {**named(of_unet, *NEW), **magnitudes})
    sampled = load_model(str(tiny_pipeline), adapter=str(adapter))
    torch.testing.assert_close(ours(sampled), of_diffusers(tiny_pipeline, adapter), rtol=0, atol=1e-5)
    with pytest.raises(ConfigError, match=r"DoRA.*start from a plain LoRA"):
        trainable_parameters(load_model(str(tiny_pipeline)), lora_rank=RANK, seed=0, start=adapter)
    part = dict(list(magnitudes.items())[1:])
    half = folder(tmp_path / "half", {**named(of_unet, *NEW), **part})
    with pytest.raises(ConfigError, match="31 of 32 layers of unet have DoRA's magnitude"):
        load_model(str(tiny_pipeline), adapter=str(half))


def test_a_folder_of_peft_has_the_scale_of_its_configuration(
    base: DiffusionModel, tiny_pipeline: Path, tmp_path: Path
) -> None:
    """Its fingerprint is that of both files; without the configuration it is refused."""
    of_unet = factors(base.pipeline.unet)
    root = tmp_path / "peft"
    root.mkdir()
    save_file(
        named(of_unet, "base_model.model.{}.lora_A.weight", "base_model.model.{}.lora_B.weight"),
        root / "adapter_model.safetensors",
    )
    with pytest.raises(ConfigError, match=r"adapter_config\.json, which says its scale, is not beside it"):
        load_model(str(tiny_pipeline), adapter=str(root))
    fingerprints = set()
    for alpha in (RANK, 3 * RANK):
        config = {"peft_type": "LORA", "r": RANK, "lora_alpha": alpha, "target_modules": ["to_q"]}
        (root / "adapter_config.json").write_text(json.dumps(config))
        sampled = load_model(str(tiny_pipeline), adapter=str(root))
        fingerprints.add(sampled.fingerprint)
        same = folder(tmp_path / str(alpha), named(of_unet, *NEW), header(alpha=alpha))
        assert torch.equal(ours(sampled), ours(load_model(str(tiny_pipeline), adapter=str(same))))
    assert len(fingerprints) == 2


def test_xl_files_with_the_original_codes_block_names_are_converted(tmp_path: Path) -> None:
    """As kohya's tools write most files of Stable Diffusion XL: with alphas, for attention and feed-forward layers."""
    from diffusers import StableDiffusionXLPipeline

    pipeline = save_tiny_xl_pipeline(tmp_path / "xl")
    base = load_model(str(pipeline))
    blocks = {
        "down_blocks.1.attentions.0": "input_blocks_3_1",
        "mid_block.attentions.0": "middle_block_1",
        "up_blocks.0.attentions.1": "output_blocks_1_1",
    }
    tensors = {}
    for name, (down, up) in factors(base.denoiser, r"to_(q|k|v)$|to_out\.0$|ff\.net").items():
        block = next(block for block in blocks if name.startswith(block)) if name[:6] != "up_blo" else ""
        if name.startswith("up_blocks.0.attentions.0"):
            continue
        block = block or "up_blocks.0.attentions.1"
        key = f"lora_unet_{blocks[block]}{name.removeprefix(block).replace('.', '_')}"
        tensors |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
        tensors[f"{key}.alpha"] = torch.tensor(2.0)
    adapter = folder(tmp_path / "adapter", tensors)
    sampled = load_model(str(pipeline), adapter=str(adapter))
    theirs = StableDiffusionXLPipeline.from_pretrained(pipeline)
    theirs.load_lora_weights(adapter)
    condition = dict(embed_prompts(sampled, PROMPTS, "", 1.0).of([0, 1]))
    latents, timesteps = torch.randn(2, *sampled.latent_shape), torch.tensor([801, 1])
    with torch.no_grad():
        mine, other, without = (
            sampled.family.predict(network, latents, timesteps, condition)
            for network in (sampled.denoiser, theirs.unet, base.denoiser)
        )
    torch.testing.assert_close(mine, other, rtol=0, atol=1e-5)
    assert float((mine - without).abs().max()) > 1e-2


def test_a_file_with_old_and_new_names_is_used_whole(tmp_path: Path) -> None:
    """As diffusers' conversion makes it for joint attention: diffusers loads a half of it, and says nothing."""
    from diffusers.utils import convert_state_dict_to_diffusers

    pipeline = save_tiny_sd3_pipeline(tmp_path / "sd-3")
    model = load_model(str(pipeline))
    for parameter in trainable_parameters(model, lora_rank=4, seed=0).values():
        parameter.data += 0.01
    save_policy(model, tmp_path / "policy")
    file = tmp_path / "policy" / "pytorch_lora_weights.safetensors"
    mixed = convert_state_dict_to_diffusers(load_file(file))
    assert len({"lora_A" in key for key in mixed}) == 2
    save_file(mixed, tmp_path / "mixed.safetensors")
    first, second = (
        load_model(str(pipeline), adapter=str(path)) for path in (file, tmp_path / "mixed.safetensors")
    )
    weights = [dict(loaded.denoiser.named_parameters()) for loaded in (first, second)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def refused_files(
    base: DiffusionModel,
) -> dict[str, tuple[dict[str, torch.Tensor], dict[str, str] | None, str]]:
    """Name -> (tensors, header, what the error says)."""
    of_unet = factors(base.pipeline.unet)
    new = named(of_unet, *NEW)
    name = next(iter(of_unet))
    key = f"unet.{name}.lora_A.weight"
    plain = named(of_unet, "{}.lora_A.default.weight", "{}.lora_B.default.weight")
    doubled = {**new, **named({name: of_unet[name]}, "unet.{}.lora.down.weight", "unet.{}.lora.up.weight")}
    return {
        "empty": ({}, None, "the file is empty"),
        "another model's": (
            {f"unet.x.{key}": torch.ones(4, 4)},
            None,
            "1 of its 1 tensors have no place in it: unet.x",
        ),
        "no LoRA": ({f"unet.{name}.weight": torch.ones(4, 4)}, None, "1 of its 1 tensors have no place"),
        "half of the keys": ({one: new[one] for one in sorted(new)[::2]}, None, "a half of a layer"),
        "one key more": (
            {**new, "unet.evil.lora_A.weight": torch.ones(4, 4)},
            None,
            "1 of its 65 .* unet.evil.lora_A",
        ),
        "a layer twice": (doubled, None, "2 of its 66 tensors"),
        "not finite": ({**new, key: new[key] * math.nan}, None, "no finite numbers"),
        "whole numbers": ({**new, key: new[key].int()}, None, "no finite numbers"),
        "other shape": ({**new, key: torch.ones(4, 3)}, None, r"its down of .* has shape \[4, 3\]"),
        "factors of two ranks": ({**new, key: torch.ones(3, 16)}, None, "do not fit"),
        "a checkpoint": (plain, None, "ppod-train export CHECKPOINT --out DIR"),
        "LoHa": ({f"lora_unet_{name.replace('.', '_')}.hada_w1_a": torch.ones(4, 4)}, None, "LoHa"),
        "rank of the header": (new, header(rank=8), "has rank 4, and the header says 8"),
        "no JSON": (new, {"lora_adapter_metadata": "[" * 5000}, "no JSON"),
        "a list": (new, {"lora_adapter_metadata": "[]"}, "no JSON object"),
        "DoRA of the header alone": (
            new,
            header(use_dora=True),
            "0 of 32 layers .* the header says that all do",
        ),
        "another start": (
            new,
            header(init_lora_weights="pissa"),
            "init_lora_weights 'pissa', which is not served",
        ),
        "unknown field": (new, header(use_qalora=True), "use_qalora 'True', which is not served"),
        "a pattern without end": (new, header(alpha_pattern={"(a+)+$": 3}), "pattern of modules"),
        "alpha twice": ({**new, f"unet.{name}.alpha": torch.tensor(2.0)}, header(), "alpha of its own"),
        "no effect": (new, header(alpha=0), "scale 0"),
        "other component": (new, {"lora_adapter_metadata": json.dumps({"prior.r": 4})}, "speaks of prior.r"),
    }


def test_what_is_not_used_whole_is_refused_and_named(
    base: DiffusionModel, tiny_pipeline: Path, tmp_path: Path
) -> None:
    for name, (tensors, metadata, message) in refused_files(base).items():
        adapter = folder(tmp_path / name, tensors, metadata)
        with pytest.raises(ConfigError, match=message) as error:
            load_model(str(tiny_pipeline), adapter=str(adapter))
        assert "\n" not in str(error.value) and str(adapter) in str(error.value)


def test_a_folder_without_an_adapter_says_where_one_is(tiny_pipeline: Path, tmp_path: Path) -> None:
    run, checkpoint = tmp_path / "run", tmp_path / "run" / "checkpoints" / "step-000004"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.json").write_text("{}")
    (checkpoint / "weights.safetensors").write_bytes(b"")
    only = tmp_path / "only"
    only.mkdir()
    (only / "mine.safetensors").write_bytes(b"")
    (only / "._mine.safetensors").write_bytes(b"of macOS")
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "pytorch_lora_weights.bin").write_bytes(b"")
    export = rf"ppod-train export {checkpoint} --out DIR"
    for given, message in (
        (checkpoint, rf"is a checkpoint of ppod-train, not a policy: {export}"),
        (checkpoint / "weights.safetensors", export),
        (run, export),
        (only, rf"give {only / 'mine.safetensors'}"),
        (pickled, "never loaded"),
        (tiny_pipeline, "is a whole pipeline: give it as --model"),
        ("owner/name", "hf download owner/name --local-dir FOLDER"),
        (tmp_path / "owner" / "name", r"is not here: give a folder with [\w.]+, or a .safetensors file$"),
        (pickled / "pytorch_lora_weights.bin", "pickled weights are never loaded"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_model(str(tiny_pipeline), adapter=str(given))
    folder(run / "policy", {})
    with pytest.raises(ConfigError, match=rf"adapter {run} holds no LoRA weights .*: give {run / 'policy'}"):
        load_model(str(tiny_pipeline), adapter=str(run))


def test_the_rank_of_a_start_is_the_policys(
    base: DiffusionModel, tiny_pipeline: Path, tmp_path: Path
) -> None:
    adapter = FORMS["several ranks"](base.pipeline, tmp_path / "adapter")
    assert policy_rank(adapter) == RANK and policy_rank(tiny_pipeline) == 0
    with pytest.raises(ConfigError, match="has LoRA rank 4, not 8: leave out --lora-rank"):
        trainable_parameters(load_model(str(tiny_pipeline)), lora_rank=8, seed=0, start=adapter)
    with pytest.raises(ConfigError, match="is a whole pipeline, of rank 0, not 4"):
        trainable_parameters(load_model(str(tiny_pipeline)), lora_rank=4, seed=0, start=tiny_pipeline)


def test_the_saved_file_needs_no_header_to_have_its_scale(
    base: DiffusionModel, tiny_pipeline: Path, tmp_path: Path
) -> None:
    """Many tools do not read it: the factors are those of scale 1."""
    adapter = FORMS["alpha in the header"](base.pipeline, tmp_path / "adapter")
    model = load_model(str(tiny_pipeline))
    trainable_parameters(model, lora_rank=RANK, seed=0, start=adapter)
    start_from(model, adapter)
    save_policy(model, tmp_path / "saved")
    file = tmp_path / "saved" / "pytorch_lora_weights.safetensors"
    with safe_open(file, framework="pt") as opened:
        assert opened.metadata() == {"format": "pt"}
    name = next(iter(factors(base.pipeline.unet)))
    given = load_file(adapter / "pytorch_lora_weights.safetensors")[f"unet.{name}.lora_B.weight"]
    assert torch.equal(load_file(file)[f"unet.{name}.lora.up.weight"], 2 * given)


def test_an_adapter_of_another_network_is_refused(base: DiffusionModel, tmp_path: Path) -> None:
    adapter = FORMS["new names"](base.pipeline, tmp_path / "adapter")
    other = save_tiny_xl_pipeline(tmp_path / "xl")
    with pytest.raises(ConfigError, match="does not fit"):
        load_model(str(other), adapter=str(adapter))
