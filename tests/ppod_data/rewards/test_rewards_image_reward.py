"""image-reward: the package's own scores, in batches, and nothing changed for others."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ppod_data.errors import ConfigError
from ppod_data.rewards import load_reward
from ppod_data.rewards.image_reward import _imported
from tests.support.small_rewards import FULL_BERT, PROMPTS, images, save_image_reward, small_vision


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """(folder, the package's model) of a small network."""
    folder = tmp_path_factory.mktemp("weights") / "image-reward"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_imported("ImageReward.models.BLIP.blip_pretrain"), "create_vit", small_vision)
        return folder, save_image_reward(folder)


@pytest.fixture
def saved(written: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Any]:
    """The same, where it can be loaded."""
    monkeypatch.setattr(_imported("ImageReward.models.BLIP.blip_pretrain"), "create_vit", small_vision)
    return written


def test_batched_scores_are_the_package_s_own(saved: tuple[Path, Any]) -> None:
    folder, package = saved
    reward = load_reward(f"image-reward:{folder}")
    ours = reward.score(PROMPTS, images())
    with torch.no_grad():
        theirs = [package.score(prompt, image) for prompt, image in zip(PROMPTS, images(), strict=True)]
        _, ranked = package.inference_rank(PROMPTS[0], images())
    assert ours == pytest.approx(theirs, abs=1e-5)
    assert reward.score([PROMPTS[0]] * 4, images()) == pytest.approx(ranked, abs=1e-5)
    assert max(ours) - min(ours) > 0.01


def test_the_prompt_matters(saved: tuple[Path, Any]) -> None:
    reward = load_reward(f"image-reward:{saved[0]}")
    cat, dog = reward.score(["a cat", "a dog"], [images()[0]] * 2)
    assert abs(cat - dog) > 1e-3


def test_weights_of_another_network_are_refused(saved: tuple[Path, Any], tmp_path: Path) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    for name in ("med_config.json", "vocab.txt"):
        (folder / name).write_bytes((saved[0] / name).read_bytes())
    torch.save({"blip.something": torch.zeros(1)}, folder / "ImageReward.pt")
    with pytest.raises(ConfigError, match=r"lacks \d+ of the network's tensors, such as blip"):
        load_reward(f"image-reward:{folder}")
    (folder / "ImageReward.pt").write_bytes(b"no weights")
    with pytest.raises(ConfigError, match="is not a file of weights"):
        load_reward(f"image-reward:{folder}")


@pytest.mark.long
def test_importing_the_package_changes_nothing_for_others() -> None:
    """In a fresh process: modules, warnings, verbosity and transformers' classes are as before."""
    program = """
import sys, warnings, transformers, transformers.modeling_utils, transformers.pytorch_utils
from ppod_data.rewards.image_reward import _imported
state = lambda: (list(warnings.filters), transformers.logging.get_verbosity(), "clip" in sys.modules,
                 set(vars(transformers.modeling_utils)), set(vars(transformers.PreTrainedModel)))
before = state()
_imported("ImageReward.models.BLIP.blip_pretrain")
assert state() == before
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# Where bert-base-uncased has the words of these prompts: the other lines of its vocabulary do not matter here.
BERT_WORDS = {
    "[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, "a": 1037, "red": 2417, "panda": 25462,
    "eating": 5983, "an": 2019, "apple": 6207, "oil": 3514, "painting": 4169, "of": 1997, "ship": 2911, "in": 1999,
    "storm": 4040, ",": 1010, "by": 2011, "turner": 6769,
}  # fmt: skip


@pytest.mark.slow
def test_the_published_size_gives_the_scores_that_old_transformers_give(tmp_path: Path) -> None:
    """447 million random weights, 4 GB of memory; the two numbers were found with transformers 4.30.2, no adapter."""
    words = {place: word for word, place in BERT_WORDS.items()}
    vocabulary = [words.get(line, f"[unused{line}]") for line in range(30522)]
    save_image_reward(tmp_path / "weights", FULL_BERT, vocabulary, head_std=0.2)
    reward = load_reward(f"image-reward:{tmp_path / 'weights'}")
    noise = np.random.RandomState(0).rand(300, 256, 3) * 255
    image = Image.fromarray(noise.astype("uint8"))
    prompts = ["a red panda eating an apple", "oil painting of a ship in a storm, by turner"]
    with torch.no_grad():
        package = [reward.model.score(prompt, image) for prompt in prompts]
    assert package == pytest.approx([-6.45697546, 1.00548053], abs=2e-5)
    assert reward.score(prompts, [image, image]) == pytest.approx(package, abs=5e-5)
