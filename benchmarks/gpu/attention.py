"""The gradients of torch's attention kernels at the models' shapes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


def check_attention(device: str) -> dict[str, Any]:
    """Compare the gradient of every attention kernel with fp32's, at the models' shapes and memory layout.

    cuDNN's backward kernels gave NaN on H100 and H200 (pytorch/pytorch#196678, huggingface/diffusers#9768).
    """
    shapes = {"sd15": (4096, 8, 40), "sdxl": (4096, 10, 64), "sd35": (4429, 24, 64), "flux": (4608, 24, 128)}
    found: dict[str, Any] = {"torch": torch.__version__, "cudnn": torch.backends.cudnn.version()}
    for title, (tokens, heads, width) in shapes.items():
        torch.manual_seed(0)
        exact = [torch.randn(2, tokens, heads, width, device=device) for _ in range(4)]
        with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):
            wanted = _attention_gradient(exact)
        for dtype in (torch.bfloat16, torch.float16):
            for backend in (
                SDPBackend.FLASH_ATTENTION,
                SDPBackend.EFFICIENT_ATTENTION,
                SDPBackend.CUDNN_ATTENTION,
            ):
                kernel = backend.name.removesuffix("_ATTENTION").lower()
                name = f"{title}, {str(dtype).removeprefix('torch.')}, {kernel}"
                try:
                    with sdpa_kernel(backend):
                        given = _attention_gradient([tensor.to(dtype) for tensor in exact])
                    found[name] = float((given - wanted).norm() / wanted.norm())
                except RuntimeError as error:
                    found[name] = str(error).splitlines()[0][:80]
    return found


def _attention_gradient(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """d(attention · w)/d(query, key, value) of query, key, value, w [B, L, heads, width], laid out as in diffusers."""
    *inputs, weight = tensors
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    query, key, value = (leaf.permute(0, 2, 1, 3) for leaf in leaves)
    out = (
        torch.nn.functional.scaled_dot_product_attention(query, key, value).permute(0, 2, 1, 3).flatten(2, 3)
    )
    out.backward(weight.flatten(2, 3))
    return torch.cat([leaf.grad.float().flatten() for leaf in leaves if leaf.grad is not None])
