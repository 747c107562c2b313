"""Window of noisy steps that moves from stage to stage, as in MixGRPO (Li et al., 2025, Alg. 1).

Every stage draws noise in a few steps and trains on these alone. Over the stages the window goes through the chain,
from the noisiest steps on, and starts again when it would pass the last step whose noise the sampler removes.
"""

from ppod_data.diffusion.noise_left import quiet_steps
from ppod_data.errors import ConfigError
from ppod_data.format.spec import GenerationSpec


def stage_window(spec: GenerationSpec, stage: int, stride: int) -> str:
    """Return the window A:B of a stage.

    Args:
        spec: the run's generation spec, whose window is that of stage 1.
        stage: the stage's number, from 1.
        stride: steps by which the window moves at each stage.

    Raises:
        ConfigError: there is no room to move by `stride`.
    """
    first = spec.noisy_range
    quiet = quiet_steps(spec.scheduler, spec.num_inference_steps, spec.ddim_eta)
    positions = range(first.start, max(quiet.stop, first.stop) - len(first) + 1, stride)
    if len(positions) < 2:
        raise ConfigError(
            f"window_stride {stride}: the window {spec.window} cannot move, since noise is drawn in the steps "
            f"{quiet.start}:{quiet.stop} at most: give a shorter --noisy-steps A:B"
        )
    start = positions[(stage - 1) % len(positions)]
    return f"{start}:{start + len(first)}"
