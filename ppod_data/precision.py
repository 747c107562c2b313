"""fp32 that is fp32: NVIDIA GPUs compute convolutions with the ten bits of TF32 unless told otherwise."""


def exact_fp32() -> None:
    """Turn TF32 off for this process: fp32 products and convolutions on a GPU are computed in fp32.

    Half precision is not affected. Every function that loads a model calls this, so that no score or log-probability
    depends on what the process loaded before.
    """
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def tf32() -> str:
    """Say whether TF32 is "on" or "off" for fp32 numbers on a GPU, for environment files."""
    import torch

    return "on" if torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32 else "off"
