"""Small random reward models of the real classes, saved as the published ones are, and real images to score."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from tests.support.pipelines import byte_tokenizer

PROMPTS = ("a cat and a dog", "zwölf grüne Hasen", "a very long prompt that has to be cut", "a cat and a dog")
RENDERS = Path(__file__).parents[1] / "fixtures" / "scenes_renders"


def images(count: int = 4) -> list[Image.Image]:
    """Pictures of several sizes, wide and high, made of renders of the embedded world."""
    found = []
    for i, path in enumerate(sorted(RENDERS.glob("*.png"))[:count]):
        size = [(64, 64), (80, 48), (36, 52), (224, 224)][i % 4]
        found.append(Image.open(path).convert("RGB").resize(size, Image.Resampling.BICUBIC))
    assert len(found) == count
    return found


def save_clip(folder: Path, *, seed: int = 0) -> Any:
    """Write a CLIP model of 32-pixel images and 16 tokens with its tokenizer and preprocessing; the model itself."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    torch.manual_seed(seed)
    model = CLIPModel(CLIPConfig(**clip_config())).eval()
    for parameter in model.parameters():  # wide enough that images and prompts tell apart
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    tokenizer: Any = byte_tokenizer(folder.parent / f"{folder.name}-tokenizer")
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(
        folder
    )
    return model


def clip_config() -> dict[str, Any]:
    """What a small CLIPConfig is made of."""
    shared = {"num_hidden_layers": 2, "hidden_act": "gelu", "projection_dim": 16}
    text = {"hidden_size": 16, "intermediate_size": 64, "num_attention_heads": 2, "vocab_size": 514}
    text |= {"max_position_embeddings": 16, "bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513}
    vision = {"hidden_size": 32, "intermediate_size": 128, "num_attention_heads": 2}
    vision |= {"image_size": 32, "patch_size": 8}
    return {"text_config": shared | text, "vision_config": shared | vision, "projection_dim": 16}


def save_aesthetic(folder: Path) -> torch.nn.Module:
    """Write a CLIP model and a head as LAION's file has it; the head as LAION builds it."""
    save_clip(folder)
    torch.manual_seed(1)
    linear, dropout = torch.nn.Linear, torch.nn.Dropout
    head = torch.nn.Sequential(
        linear(16, 1024),
        dropout(0.2),
        linear(1024, 128),
        dropout(0.2),
        linear(128, 64),
        dropout(0.1),
        linear(64, 16),
        linear(16, 1),
    ).eval()
    torch.save({f"layers.{key}": value for key, value in head.state_dict().items()}, folder / "head.pth")
    return head


WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "cat",
    "and",
    "dog",
    "very",
    "long",
    "gr",
    "##une",
]
SMALL_BERT = {"vocab_size": 64, "num_hidden_layers": 1, "intermediate_size": 64}
FULL_BERT = {"vocab_size": 30524, "num_hidden_layers": 12, "intermediate_size": 3072}


def save_image_reward(
    folder: Path,
    bert: dict[str, int] = SMALL_BERT,
    words: Sequence[str] = WORDS,
    head_std: float | None = None,
) -> Any:
    """Write an ImageReward of the package's own classes and a vocabulary; the package's model itself.

    The package has no option for the size of its vision network: a small one needs `small_vision` in place of the
    package's create_vit, when it is saved and when it is loaded.
    """
    from ppod_data.rewards.image_reward import _built, _imported

    folder.mkdir()
    config = {"hidden_size": 768, "num_attention_heads": 12, "max_position_embeddings": 512} | bert
    config |= {"add_cross_attention": True, "encoder_width": 64, "type_vocab_size": 2}
    (folder / "med_config.json").write_text(json.dumps(config))
    (folder / "vocab.txt").write_text("\n".join(words))
    _imported("ImageReward.ImageReward")
    torch.manual_seed(0)
    model = _built(folder / "med_config.json", folder, "cpu").eval()
    for parameter in model.mlp.parameters():  # the package's initial values give every image the same score
        if head_std is not None:
            torch.nn.init.normal_(parameter, std=head_std)
        elif parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    torch.save(model.state_dict(), folder / "ImageReward.pt")
    return model


def small_vision(*_: object) -> tuple[Any, int]:
    """In place of the package's create_vit: its own class, two layers of 64."""
    from ppod_data.rewards.image_reward import _imported

    vision = _imported("ImageReward.models.BLIP.vit").VisionTransformer
    return vision(img_size=224, patch_size=16, embed_dim=64, depth=2, num_heads=4), 64
