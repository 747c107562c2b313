"""Numerics of NVIDIA GPUs that are the same in every process: fp32 that is fp32, attention whose gradient is finite."""


def set_gpu_numerics() -> None:
    """Turn off TF32 and cuDNN's attention for this process.

    With TF32, convolutions in fp32 keep ten bits. The backward pass of cuDNN's attention gave NaN gradients and illegal
    memory accesses for FLUX.1 on an H200 (pytorch/pytorch#196678 has a cause of such NaNs); torch's other fused kernels
    take its place. Half precision is not affected otherwise. Every function that loads a model calls this, so that no
    score or log-probability depends on what the process loaded before.
    """
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.enable_cudnn_sdp(False)


def tf32() -> str:
    """Say whether TF32 is "on" or "off" for fp32 numbers on a GPU, for environment files."""
    import torch

    return "on" if torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32 else "off"
