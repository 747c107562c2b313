"""Memory of live tensors while code runs, on a device or on `meta`, where nothing is computed."""

import weakref
from collections.abc import Hashable, Iterable, Iterator
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
        self.now = self.peak = 0
        self._known = weakref.WeakSet(tensor.untyped_storage() for tensor in there)
        self._layouts: dict[Hashable, tuple[_Layout, ...]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = self._result(func, args, kwargs or {})
        for leaf in tree_iter(result):
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage() not in self._known:
                self._add(leaf.untyped_storage())
        return result

    def _result(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Return an operation's result; on `meta`, new tensors of the layouts that the same call had before.

        A network repeats its blocks, and torch derives many layouts slowly, in Python.
        """
        try:
            key = (func, _key(args), _key(tuple(kwargs.items())))
            known = self._layouts.get(key)
        except (_HasValuesError, TypeError):  # TypeError: an argument without a hash
            return func(*args, **kwargs)
        if known is not None:
            tensors = tuple(map(_empty, known))
            return tensors if len(tensors) > 1 else tensors[0]
        result = func(*args, **kwargs)
        if layouts := _fresh_layouts(result, (args, kwargs)):
            self._layouts[key] = layouts
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        size = storage.nbytes()
        self._known.add(storage)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, size)

    def _drop(self, size: int) -> None:
        self.now -= size


_Layout = tuple[torch.Size, tuple[int, ...], torch.dtype]
"""Shape, strides and type of a tensor on `meta`."""


class _HasValuesError(Exception):
    """A tensor that is not on `meta`: the result depends on its values."""


def _key(value: Any) -> Hashable:
    """Return what decides the layouts of an operation's results. Raises _HasValuesError for a tensor with values."""
    if isinstance(value, torch.Tensor):
        if not value.is_meta:
            raise _HasValuesError
        return value.shape, value.stride(), value.storage_offset(), value.dtype
    if isinstance(value, (list, tuple)):
        return tuple(map(_key, value))
    return type(value), value


def _fresh_layouts(result: Any, inputs: Any) -> tuple[_Layout, ...]:
    """Return the layouts of a tensor or several on `meta` with storages of their own; none for views and the rest."""
    tensors = (result,) if isinstance(result, torch.Tensor) else result
    if not isinstance(tensors, tuple) or (len(tensors) < 2 and tensors is result):
        return ()
    if not all(isinstance(tensor, torch.Tensor) and tensor.is_meta for tensor in tensors):
        return ()
    given = [leaf.untyped_storage() for leaf in tree_iter(inputs) if isinstance(leaf, torch.Tensor)]
    own = [tensor.untyped_storage() for tensor in tensors]
    if not set(map(id, given)).isdisjoint(map(id, own)) or len(set(map(id, own))) < len(own):
        return ()
    layouts = tuple((tensor.shape, tensor.stride(), tensor.dtype) for tensor in tensors)
    whole = [_empty(layout).untyped_storage().nbytes() for layout in layouts]
    return layouts if whole == [storage.nbytes() for storage in own] else ()


def _empty(layout: _Layout) -> torch.Tensor:
    shape, stride, dtype = layout
    return torch.empty_strided(shape, stride, dtype=dtype, device="meta")


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
