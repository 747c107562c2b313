"""Rewards over CLIP: each formula by hand on small models of the real classes, in batches of any size."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ppod_data.errors import ConfigError
from ppod_data.rewards import WITH_WEIGHTS, RewardModel, load_reward
from ppod_data.rewards.hpsv2 import padded_square, to_transformers
from tests.support.small_rewards import PROMPTS, images, save_aesthetic, save_clip

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def pixels_by_hand(image: Image.Image, side: int = 32) -> torch.Tensor:
    """The shorter side resized by Pillow, the centre cut out, normalised: [3, side, side]."""
    width, height = image.size
    scale = side / min(width, height)
    resized = image.resize((int(width * scale), int(height * scale)), Image.Resampling.BICUBIC)
    left, top = (resized.width - side) // 2, (resized.height - side) // 2
    array = np.asarray(resized.crop((left, top, left + side, top + side))) / 255.0
    return torch.tensor((array - MEAN) / STD, dtype=torch.float32).permute(2, 0, 1)


def embeddings_by_hand(
    model: Any, folder: Path, prompt: str, image: Image.Image
) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit vectors of one prompt, without padding, and of one image."""
    from transformers import CLIPTokenizer

    tokens = CLIPTokenizer.from_pretrained(folder)(
        prompt, truncation=True, max_length=16, return_tensors="pt"
    )
    with torch.no_grad():
        text = model.text_projection(model.text_model(input_ids=tokens.input_ids).pooler_output)[0]
        seen = model.visual_projection(model.vision_model(pixels_by_hand(image)[None]).pooler_output)[0]
    return text / text.norm(), seen / seen.norm()


@pytest.mark.parametrize("name", ["clip", "pickscore"])
def test_clip_and_pickscore_are_the_scaled_cosine(name: str, tmp_path: Path) -> None:
    model = save_clip(tmp_path / "clip")
    reward = load_reward(f"{name}:{tmp_path / 'clip'}")
    by_hand = []
    for prompt, image in zip(PROMPTS, images(), strict=True):
        text, seen = embeddings_by_hand(model, tmp_path / "clip", prompt, image)
        by_hand.append(float(model.logit_scale.exp() * (text @ seen)))
    assert reward.name == name
    assert reward.score(PROMPTS, images()) == pytest.approx(by_hand, abs=2e-5)
    assert len({round(value, 4) for value in by_hand}) == 4


def test_aesthetic_is_the_published_head_on_the_image(tmp_path: Path) -> None:
    folder = tmp_path / "aesthetic"
    head = save_aesthetic(folder)
    reward = load_reward(f"aesthetic:{folder}")
    from transformers import CLIPModel

    model = CLIPModel.from_pretrained(folder).eval()
    with torch.no_grad():
        by_hand = [
            float(head(embeddings_by_hand(model, folder, "a", image)[1].float())) for image in images()
        ]
    assert reward.score(PROMPTS, images()) == pytest.approx(by_hand, abs=1e-6)
    assert reward.score(PROMPTS[::-1], images()) == reward.score(PROMPTS, images())


def save_hpsv2(folder: Path) -> Any:
    """A small CLIP of open_clip, stored as HPSv2's checkpoint is, beside what transformers describes it with."""
    open_clip = pytest.importorskip("open_clip")
    save_clip(folder)
    (folder / "model.safetensors").unlink()
    text = {"context_length": 16, "vocab_size": 514, "width": 16, "heads": 2, "layers": 2}
    vision = {"layers": 2, "width": 32, "patch_size": 8, "image_size": 32, "head_width": 16}
    torch.manual_seed(2)
    model = open_clip.CLIP(embed_dim=16, vision_cfg=vision, text_cfg=text).eval()
    for parameter in model.parameters():
        if parameter.ndim > 0:
            torch.nn.init.normal_(parameter, std=0.3)
    torch.save({"epoch": 1, "state_dict": model.state_dict()}, folder / "HPS_v2.1_compressed.pt")
    return model


def test_hpsv2_is_the_cosine_of_open_clip_on_padded_images(tmp_path: Path) -> None:
    from transformers import CLIPTokenizer

    folder = tmp_path / "hpsv2"
    model = save_hpsv2(folder)
    tokens = CLIPTokenizer.from_pretrained(folder)(
        list(PROMPTS), padding="max_length", truncation=True, max_length=16, return_tensors="pt"
    )
    with torch.no_grad():
        text = model.encode_text(tokens.input_ids, normalize=True)
        seen = model.encode_image(padded_square(32)(images()), normalize=True)
    by_hand = (text * seen).sum(-1).tolist()
    assert load_reward(f"hpsv2:{folder}").score(PROMPTS, images()) == pytest.approx(by_hand, abs=2e-6)
    assert len({round(value, 3) for value in by_hand}) == 4


def test_hpsv2_pads_the_shorter_side_with_black() -> None:
    black = -torch.tensor(MEAN) / torch.tensor(STD)
    wide = padded_square(32)([Image.new("RGB", (64, 32), "white")])[0]
    assert torch.allclose(wide[:, :8], black[:, None, None].expand(3, 8, 32))
    assert torch.allclose(wide[:, 24:], wide[:, :8])
    assert torch.allclose(
        wide[:, 8:24], ((1 - torch.tensor(MEAN)) / torch.tensor(STD))[:, None, None].expand(3, 16, 32)
    )


def test_a_name_that_open_clip_does_not_have_is_refused() -> None:
    with pytest.raises(KeyError):
        to_transformers({"visual.trunk.blocks.0.weight": torch.zeros(1)})


SAVE: dict[str, Callable[[Path], Any]] = {
    "clip": save_clip,
    "pickscore": save_clip,
    "aesthetic": save_aesthetic,
    "hpsv2": save_hpsv2,
}


@pytest.fixture(scope="module", params=SAVE)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Name and folder of each reward."""
    folder = tmp_path_factory.mktemp("weights") / request.param
    SAVE[request.param](folder)
    return request.param, folder


def test_a_score_does_not_depend_on_its_batch(saved: tuple[str, Path]) -> None:
    reward: RewardModel = load_reward(f"{saved[0]}:{saved[1]}")
    together = reward.score(PROMPTS, images())
    alone = [reward.score([prompt], [image])[0] for prompt, image in zip(PROMPTS, images(), strict=True)]
    turned = reward.score(PROMPTS[::-1], images()[::-1])[::-1]
    assert together == pytest.approx(alone, rel=1e-5, abs=1e-6)
    assert together == pytest.approx(turned, rel=1e-5, abs=1e-6)


def test_the_revision_is_that_of_the_files(saved: tuple[str, Path], tmp_path: Path) -> None:
    name, folder = saved
    first = load_reward(f"{name}:{folder}").revision
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
        (copy / f"._{file.name}").write_bytes(b"of macOS")
    assert load_reward(f"{name}:{copy}").revision == first
    config = json.loads((copy / "preprocessor_config.json").read_text())
    (copy / "preprocessor_config.json").write_text(json.dumps(config | {"resample": 2}))
    assert load_reward(f"{name}:{copy}").revision != first


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_what_is_missing_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{name}: .*nowhere is not a folder"):
        load_reward(f"{name}:{tmp_path}/nowhere")
    with pytest.raises(ConfigError, match=rf"{name}: no (config.json|ImageReward.pt|HPS).* in {tmp_path}"):
        load_reward(f"{name}:{tmp_path}")


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_without_a_network_the_way_out_is_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=rf"hf download \S+/\S+ ?.*or give a folder, {name}:FOLDER"):
        load_reward(name)


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    save_aesthetic(tmp_path / "aesthetic")
    torch.save({"layers.0.weight": torch.zeros(2, 2)}, tmp_path / "aesthetic" / "head.pth")
    with pytest.raises(ConfigError, match="not a predictor over embeddings of width 16"):
        load_reward(f"aesthetic:{tmp_path / 'aesthetic'}")
    save_hpsv2(tmp_path / "hpsv2")
    torch.save(
        {"state_dict": {"logit_scale": torch.zeros(())}}, tmp_path / "hpsv2" / "HPS_v2.1_compressed.pt"
    )
    with pytest.raises(ConfigError, match=r"does not fit config.json beside it"):
        load_reward(f"hpsv2:{tmp_path / 'hpsv2'}")


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    save_aesthetic(tmp_path / "aesthetic")
    torch.save({"layers.0.weight": Evil()}, tmp_path / "aesthetic" / "head.pth")
    with pytest.raises(ConfigError, match="is not a file of weights"):
        load_reward(f"aesthetic:{tmp_path / 'aesthetic'}")
    assert not (tmp_path / "ran").exists()
