"""One recorded denoising chain, and the encoding of its latents in a tar.

Shapes: R stored latents of one chain, T steps, C H W latent.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ppod_data.errors import ConfigError, DamagedError
from ppod_data.storage.json_reader import parse_json

if TYPE_CHECKING:
    import torch

TORCH_NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""The torch name of each dtype in a spec."""
_SAFETENSORS_NAMES = {"F32": "fp32", "BF16": "bf16", "F16": "fp16"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Trajectory:
    """The recorded denoising chain of one image: x_T, …, x_0, or the stored part of it.

    >>> from ppod_data import Dataset
    >>> dataset = Dataset.open("data")
    >>> trajectory = dataset.trajectory(dataset.samples()["sample_id"][0].as_py())
    >>> len(trajectory.timesteps), len(trajectory.latents)
    (4, 5)
    """

    sample_id: str
    prompt_id: str
    prompt: str
    timesteps: list[int]
    """T scheduler timesteps, the noisiest first."""
    stochastic: list[bool]
    """T flags: the step has variance, and therefore a log-probability."""
    log_probs: list[float | None]
    """T log-densities under the policy that made the data, averaged over C·H·W; None if not stochastic."""
    step_index: list[int]
    """The steps, 0 to T - 1, that `step` returns."""
    latent_index: list[int]
    """The latent in each row of `latents`: 0 is x_T, T is x_0."""
    latents: "torch.Tensor"
    """[R, C, H, W] in the storage dtype, on the CPU."""

    def __repr__(self) -> str:
        """Summarise the trajectory on one line, for notebooks."""
        latents = f"{len(self.latent_index)} latents {tuple(self.latents.shape[1:])} {self.latents.dtype}"
        return f"Trajectory({self.sample_id}, {self.prompt[:60]!r}: {len(self.timesteps)} steps, {latents})"

    def step(self, i: int) -> tuple["torch.Tensor", "torch.Tensor"]:
        """Return the latents [C, H, W] before and after step i of the chain: x_t and x_{t-1}.

        Raises `ConfigError` for a step that is not stored.
        """
        if i not in self.step_index:
            raise ConfigError(
                f"step {i} is not stored in this data set: it stores the steps {self.step_index}"
            )
        (row,) = rows_before(self.latent_index, [i])
        return self.latents[row], self.latents[row + 1]


def latent_rows(step_index: Sequence[int]) -> list[int]:
    """Return the latents that some steps need, ascending: step i goes from latent i to latent i + 1."""
    return sorted({row for i in step_index for row in (i, i + 1)})


def rows_before(latent_index: Sequence[int], steps: Sequence[int]) -> list[int]:
    """Return the row of x_t of each step among the stored latents `latent_index`; x_{t-1} is in the row after it."""
    row_of = {latent: row for row, latent in enumerate(latent_index)}
    return [row_of[step] for step in steps]


def encode_latents(latents: "torch.Tensor", latent_index: Sequence[int]) -> bytes:
    """Return the safetensors bytes of a trajectory's latents [R, C, H, W]. The same values give the same bytes."""
    from safetensors.torch import save

    assert latents.ndim == 4 and len(latent_index) == latents.shape[0]
    payload: bytes = save(
        {"latents": latents.contiguous()}, metadata={"latent_index": json.dumps(list(latent_index))}
    )
    return payload


def decode_latents(data: bytearray, where: str) -> tuple[list[int], "torch.Tensor"]:
    """Return the latent index and the latents of a trajectory. The tensor shares the bytes of `data`.

    A copy would take as much time as reading and hashing them.
    """
    import torch

    try:
        start = 8 + int.from_bytes(data[:8], "little")
        header = parse_json(data[8:start])
        entry = header["latents"]
        dtype = getattr(torch, TORCH_NAMES[_SAFETENSORS_NAMES[entry["dtype"]]])
        first, end = entry["data_offsets"]
        latents = torch.frombuffer(memoryview(data)[start + first : start + end], dtype=dtype)
        index: list[int] = parse_json(header["__metadata__"]["latent_index"])
        return index, latents.view(entry["shape"])
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise DamagedError(
            f"{where}: ppod did not write these latents ({error}): get the shard again"
        ) from error
