"""The parts of the scenes pipeline, untrained, in standard diffusers and transformers classes."""

from collections import Counter
from itertools import pairwise
from typing import Any

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ppod_data.scenes.captions import KINDS, all_prompts

MAX_TOKENS = 16
TEXT_WIDTH = 64
_BOS, _EOS = "<|startoftext|>", "<|endoftext|>"
_WORD_END = "</w>"


def build_vae() -> Any:
    """Build an AutoencoderKL, 32x32x3 → 8x8x4, 0.65 M weights; `scaling_factor` is set after training."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=4,
        sample_size=32,
        mid_block_add_attention=False,
        force_upcast=False,
    )


def build_unet() -> Any:
    """Build a UNet2DConditionModel on 8x8x4 latents, 2.2 M weights; cross-attention at 4x4 and the middle only."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(48, 96),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
    )


def build_scheduler() -> Any:
    """Build a DDIMScheduler with every key written out, independent of the installed version's defaults.

    Timesteps are trailing, and the last step has no noise. With leading timesteps and an offset, the last step
    but one (51 → 1) would move the log-ratio seven times as much as any other for the same change of the
    prediction. Preference training would then depend on that step alone.
    """
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.018,
        beta_schedule="scaled_linear",
        trained_betas=None,
        clip_sample=False,
        clip_sample_range=1.0,
        set_alpha_to_one=True,
        steps_offset=1,
        prediction_type="epsilon",
        thresholding=False,
        dynamic_thresholding_ratio=0.995,
        sample_max_value=1.0,
        timestep_spacing="trailing",
        rescale_betas_zero_snr=False,
    )


def build_text_encoder(tokenizer: Any) -> Any:
    """Build a CLIPTextModel, two layers of width 64 over at most 16 tokens."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attention_dropout=0.0,
    )
    return CLIPTextModel(config)


def build_tokenizer() -> Any:
    """Build a CLIPTokenizer in which every word of the grammar is one token; other text is split into bytes."""
    words = sorted({word for kind in KINDS for prompt in all_prompts(kind) for word in prompt.split()})
    merges = _merges(words)
    letters = _byte_letters()
    pieces = [*letters, *(letter + _WORD_END for letter in letters), *("".join(pair) for pair in merges)]
    vocab = {piece: index for index, piece in enumerate([*dict.fromkeys(pieces), _BOS, _EOS])}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=MAX_TOKENS)


def _byte_letters() -> list[str]:
    """Return the 256 printable stand-ins for bytes of byte-level BPE, in the order of GPT-2 and CLIP."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in kept]
    return [chr(byte) for byte in kept] + [chr(256 + i) for i in range(len(rest))]


def _merges(words: list[str]) -> list[tuple[str, str]]:
    """Return byte-pair merges, the most frequent pair first, until each word is one piece."""
    split = [[*word[:-1], word[-1] + _WORD_END] for word in words]
    merges: list[tuple[str, str]] = []
    while any(len(word) > 1 for word in split):
        pairs = Counter(pair for word in split for pair in pairwise(word))
        best = max(sorted(pairs), key=lambda pair: pairs[pair])
        merges.append(best)
        split = [_merged(word, best) for word in split]
    return merges


def _merged(word: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    i = 0
    while i < len(word):
        if tuple(word[i : i + 2]) == pair:
            out.append(pair[0] + pair[1])
            i += 2
        else:
            out.append(word[i])
            i += 1
    return out
