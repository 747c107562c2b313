"""image-reward: the package's own scores, in batches, and nothing changed for others."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ppod_data.errors import ConfigError
from ppod_data.rewards import load_reward
from ppod_data.rewards.image_reward import _imported
from tests.data.small_rewards import PROMPTS, images, save_image_reward, small_vision


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(folder, the package's model)."""
    blip = _imported("ImageReward.models.BLIP.blip_pretrain")
    folder = tmp_path_factory.mktemp("weights") / "image-reward"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blip, "create_vit", small_vision)
        yield folder, save_image_reward(folder)


def test_batched_scores_are_the_package_s_own(saved: Any) -> None:
    folder, package = saved
    reward = load_reward(f"image-reward:{folder}")
    ours = reward.score(PROMPTS, images())
    with torch.no_grad():
        theirs = [package.score(prompt, image) for prompt, image in zip(PROMPTS, images(), strict=True)]
        _, ranked = package.inference_rank(PROMPTS[0], images())
    assert ours == pytest.approx(theirs, abs=1e-5)
    assert reward.score([PROMPTS[0]] * 4, images()) == pytest.approx(ranked, abs=1e-5)
    assert max(ours) - min(ours) > 0.01


def test_the_prompt_matters(saved: Any) -> None:
    reward = load_reward(f"image-reward:{saved[0]}")
    cat, dog = reward.score(["a cat", "a dog"], [images()[0]] * 2)
    assert abs(cat - dog) > 1e-3


def test_weights_of_another_network_are_refused(saved: Any, tmp_path: Path) -> None:
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


@pytest.mark.slow
def test_the_published_size_gives_the_package_s_scores(tmp_path: Path) -> None:
    """447 million random weights, 4 GB of memory: saved, loaded by the reward, compared with the package."""
    folder = tmp_path / "image-reward"
    package = save_image_reward(folder, full_size=True)
    reward = load_reward(f"image-reward:{folder}")
    with torch.no_grad():
        theirs = [
            package.score(prompt, image) for prompt, image in zip(PROMPTS[:2], images()[:2], strict=True)
        ]
    assert reward.score(PROMPTS[:2], images()[:2]) == pytest.approx(theirs, abs=1e-5)
