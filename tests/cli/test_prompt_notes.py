"""What the commands say of prompts that are cut, or that no scenes scorer can read: one line, once."""

from pathlib import Path
from typing import Any

import pytest
from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE
from ppod_cli import gen, pair, score, train

from ppod_data.diffusion.models.long_prompts import describe_cut_prompts
from ppod_data.diffusion.models.model import load_model
from ppod_data.scenes.captions import ANIMALS, COLOURS, COUNT_WORDS, PLACE_PHRASES, unreadable
from tests.support.command import REPOSITORY, call
from tests.support.pipelines import (
    save_tiny_flux_pipeline,
    save_tiny_pipeline,
    save_tiny_sd35_pipeline,
    save_tiny_xl_pipeline,
)
from tests.support.transformer_pipelines import (
    save_tiny_flux_2_dev_pipeline,
    save_tiny_klein_pipeline,
    save_tiny_lumina_2_pipeline,
    save_tiny_qwen_image_pipeline,
    save_tiny_sana_pipeline,
    save_tiny_z_image_pipeline,
)

FEW = ("--num-images-per-prompt", 1, "--num-inference-steps", 2)


def test_cut_prompts_are_counted_in_one_line(tmp_path: Path, tiny_pipeline: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat\n" + "".join(f"{'many things and ' * 5}number {i}\n" for i in range(4)))
    negative = ("--guidance-scale", 2, "--negative-prompt", "blurry, and much more")
    result = call(gen.app, tmp_path / "data", "--model", tiny_pipeline, "--prompts", prompts, *negative, *FEW)
    assert result.code == 0, result.stderr
    notes = [line for line in result.stderr.splitlines() if "cut" in line or "token" in line.lower()]
    assert notes == [
        "note: prompts are longer than the model reads, and are cut: 4 of 5 at 16 tokens of text_encoder, "
        "the negative prompt at 16 tokens of text_encoder (such as "
        "'many things and many things and many things and many things…'); "
        "3 of them the model cannot tell from another"
    ]


@pytest.mark.parametrize(
    ("save", "parts"),
    [
        (save_tiny_pipeline, ["1 of 2 at 16 tokens of text_encoder"]),
        (
            save_tiny_xl_pipeline,
            ["1 of 2 at 16 tokens of text_encoder", "1 of 2 at 16 tokens of text_encoder_2"],
        ),
        (
            save_tiny_sd35_pipeline,
            ["1 of 2 at 16 tokens of text_encoder", "1 of 2 at 16 tokens of text_encoder_2"],
        ),
        (save_tiny_flux_pipeline, ["1 of 2 at 16 tokens of text_encoder"]),
    ],
)
def test_each_encoder_has_its_own_length(tmp_path: Path, save: Any, parts: list[str]) -> None:
    """T5 reads 256 tokens of Stable Diffusion 3's and 512 of FLUX.1's prompts, whatever its tokenizer says."""
    model = load_model(str(save(tmp_path / "model")))
    note = describe_cut_prompts(model, ["a cat", "a cat and a dog, number 20"], "")
    assert note == (
        f"prompts are longer than the model reads, and are cut: {', '.join(parts)} "
        "(such as 'a cat and a dog, number 20')"
    )
    assert describe_cut_prompts(model, ["a cat", "abcdefghijklmn"], "") is None
    assert describe_cut_prompts(model, ["abcdefghijklmno"], "") is not None
    long = describe_cut_prompts(model, ["x" * 600], "")
    assert long is not None and ("256 tokens of text_encoder_3" in long) == (save is save_tiny_sd35_pipeline)
    assert ("512 tokens of text_encoder_2" in long) == (save is save_tiny_flux_pipeline)


LUMINA_2 = (
    "You are an assistant designed to generate superior images with the superior degree of image-text alignment based "
    "on textual prompts or user prompts."
)
"""The system prompt of its pipeline."""


def test_a_language_model_reads_what_its_template_leaves(tmp_path: Path) -> None:
    """512 tokens in all for FLUX.2 and Z-Image; Qwen-Image drops the template's first tokens and keeps the last.

    Sana drops all tokens but 300, of which the text's first one and the instruction's last one are two.
    """
    for save, limit, first in (
        (save_tiny_klein_pipeline, 512 - 38, 0),
        (save_tiny_flux_2_dev_pipeline, 512 - 1 - len(f"[system]{SYSTEM_MESSAGE}[user]"), 1),
        (save_tiny_sana_pipeline, 298, 1),
        (save_tiny_lumina_2_pipeline, 256 - 1 - len(f"{LUMINA_2} <Prompt Start> "), 1),
        (save_tiny_z_image_pipeline, 512 - 19, 0),
        (save_tiny_qwen_image_pipeline, 512 + 34 - 162, 0),
    ):
        model = load_model(str(save(tmp_path / save.__name__)))
        assert describe_cut_prompts(model, ["x" * limit], "") is None
        note = describe_cut_prompts(model, ["x" * (limit + 1)], "")
        assert note is not None and f"1 of 1 at {limit + first} tokens of text_encoder" in note


def test_prompts_that_scenes_scorers_cannot_read_are_said_at_once(tmp_path: Path) -> None:
    prompts = ("--prompt", "a unicorn dancing", "--prompt", "a cat")
    result = call(gen.app, tmp_path / "data", *prompts, *FEW)
    assert result.code == 0, result.stderr
    [note] = [line for line in result.stderr.splitlines() if line.startswith("note: ")]
    assert note.startswith(
        "note: the scenes scorers cannot read 1 of 2 prompts, such as 'a unicorn dancing': write "
    )
    quiet = call(gen.app, tmp_path / "other", "--prompt", "a cat", *FEW)
    assert "note: " not in quiet.stderr


def test_a_reason_that_is_kept_beside_a_score_is_whole(tmp_path: Path) -> None:
    call(gen.app, tmp_path / "data", "--prompt", "a unicorn dancing " * 20, *FEW)
    failed = call(score.app, tmp_path / "data", "--reward", "scenes")
    assert "docs/prompts.md lists all words" in failed.one_error()


def test_the_page_on_prompts_has_every_word() -> None:
    page = (REPOSITORY / "docs" / "prompts.md").read_text()
    for word in (*ANIMALS, *COLOURS, *COUNT_WORDS, *PLACE_PHRASES.values(), "wolves"):
        assert word in page
    assert unreadable(["A cat.", "a cat and a cat", "five Blue wolves on the moon"]) == ["a cat and a cat"]


def test_training_and_evaluations_say_it_once(tmp_path: Path, tiny_pipeline: Path) -> None:
    """Whatever is sampled how often, no line is the libraries' own."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(f"{'many things and ' * 5}1\n{'many things and ' * 5}2\n")
    given = ("--model", tiny_pipeline, "--prompts", prompts, "--reward", "jpeg-compressibility")
    few = ("--num-images-per-prompt", 2, "--num-inference-steps", 2)
    steps = ("--num-train-steps", 1, "--lora-rank", 2, "--eval-images-per-prompt", 1)
    said = [call(train.app, "eval", "--out", tmp_path / "eval", *given, *few)]
    said.append(call(train.app, "online", "--out", tmp_path / "on", "--stages", 1, *given, *few, *steps))
    call(gen.app, tmp_path / "data", "--model", tiny_pipeline, "--prompts", prompts, *few)
    call(score.app, tmp_path / "data", "--reward", "jpeg-compressibility")
    call(pair.app, "rank", tmp_path / "data", "--reward", "jpeg-compressibility")
    said.append(call(train.app, "offline", tmp_path / "data", "--out", tmp_path / "run", *steps))
    for result in said:
        assert result.code == 0, result.stderr
        lines = [
            line
            for line in result.stderr.splitlines()
            if "token" in line.lower() or "truncat" in line.lower()
        ]
        assert len(lines) == 1, result.stderr
        assert lines[0].startswith(
            "note: prompts are longer than the model reads, and are cut: 2 of 2 at 16 tokens"
        )
