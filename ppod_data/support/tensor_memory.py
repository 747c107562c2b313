"""Memory of live tensors while code runs, on a device or on `meta`, where nothing is computed."""

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types here
    """A counter of the bytes of tensors created inside a `with` block and still alive.

    Tensors that autograd keeps are counted, with gradient checkpointing too. Scratch memory inside one
    operation is not.
    """

    now: int
    """Bytes alive."""
    peak: int
    """The most bytes alive at once."""

    def __init__(self, there: Iterable[torch.Tensor] = ()) -> None:
        """Start a counter at zero.

        Args:
            there: tensors to leave out of the count, such as weights, together with their views.
        """
        super().__init__()  # type: ignore[no-untyped-call]  # nor here
        there = list(there)
        self._computes = bool(there) and not there[0].is_meta  # then there is nothing to repeat
        self.now = self.peak = 0
        self._known = weakref.WeakSet(tensor.untyped_storage() for tensor in there)
        self._results: dict[Any, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs) if self._computes else self._shaped(func, args, kwargs)
        for leaf in tree_iter(result):
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage() not in self._known:
                self._add(leaf.untyped_storage())
        return result

    def _shaped(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Call an operation; on `meta`, repeat an earlier result of the same shapes.

        Many operations on `meta` run as Python code, and the layers of a network repeat each other. Views do not:
        they cost less than to look them up.
        """
        if func.is_view or func._schema.is_mutable:
            return func(*args, **kwargs)
        key = (func, _description(args), *((name, _description(kwargs[name])) for name in kwargs))
        if known := self._results.get(key):
            return _like(known)
        result = func(*args, **kwargs)
        tensors = [one for one in tree_iter(result) if one is not None]
        if all(isinstance(one, torch.Tensor) and one.is_meta for one in tensors):
            storages = {one.untyped_storage() for one in tensors}
            if len(storages) == len(tensors) and storages.isdisjoint(_storages((args, kwargs))):
                self._results[key] = _shape(result)
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        size = storage.nbytes()
        self._known.add(storage)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, size)

    def _drop(self, size: int) -> None:
        self.now -= size


def _description(value: Any) -> Any:
    """Return what the shape of an operation's result depends on, of an argument or several."""
    if isinstance(value, torch.Tensor):
        return value.shape, value.stride(), value.dtype, value.device
    if isinstance(value, tuple | list):
        return tuple(map(_description, value))
    return type(value), value


def _storages(arguments: Any) -> Iterator[torch.UntypedStorage]:
    return (leaf.untyped_storage() for leaf in tree_iter(arguments) if isinstance(leaf, torch.Tensor))


def _shape(result: Any) -> Any:
    """Return size, stride and dtype of an operation's result, or those of each of several."""
    if isinstance(result, tuple | list):
        return [_shape(one) for one in result]
    return None if result is None else (result.shape, result.stride(), result.dtype)


def _like(shape: Any) -> Any:
    """Return new tensors of such a shape on `meta`."""
    if isinstance(shape, list):
        return tuple(map(_like, shape))
    if shape is None:
        return None
    size, stride, dtype = shape
    return torch.empty_strided(size, stride, dtype=dtype, device="meta")


class _FusedAttention(torch.autograd.Function):
    """The memory use of torch's fused attention: inputs and output are kept, the score matrix is not."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Keep the inputs and an empty output."""
        output = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, output)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return empty gradients."""
        query, key, value, _ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


@contextmanager
def attention_without_scores() -> Iterator[None]:
    """Count attention on `meta` as a device's fused kernel, which does not keep the score matrix.

    Torch takes the plain kernel on `meta`. Use for counting only: values computed inside the block are
    meaningless.
    """
    functional: Any = torch.nn.functional
    plain = functional.scaled_dot_product_attention

    def fused(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **_: Any) -> torch.Tensor:
        result: torch.Tensor = _FusedAttention.apply(query, key, value)
        return result

    functional.scaled_dot_product_attention = fused
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = plain
