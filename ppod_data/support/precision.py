"""GPU numerics that are the same in every process: full fp32 and attention with finite gradients."""

ATTENTION_BACKEND = "DIFFUSERS_ATTN_BACKEND"
"""diffusers' environment variable for the kernels of attention."""


def set_gpu_numerics() -> None:
    """Turn off TF32 and cuDNN's attention for this process.

    With TF32, fp32 convolutions keep ten bits. The backward pass of cuDNN's attention gave NaN gradients and
    illegal memory accesses for FLUX.1 on an H200 (pytorch/pytorch#196678 has a cause of such NaNs), so torch's
    other fused kernels replace it. Half precision is otherwise unchanged. Every function that loads a model
    calls this. Scores and log-probabilities therefore do not depend on what the process loaded before.
    """
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.enable_cudnn_sdp(False)


def tf32() -> str:
    """Return "on" or "off": the TF32 setting for fp32 on a GPU, recorded in environment files."""
    import torch

    return "on" if torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32 else "off"
