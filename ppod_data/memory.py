"""Which errors mean that memory ran out, without importing torch to ask."""

_MESSAGES = ("DefaultCPUAllocator", "out of memory")


def is_out_of_memory(error: BaseException) -> bool:
    """True for MemoryError, an accelerator's OutOfMemoryError, and the RuntimeError of torch on a CPU."""
    if isinstance(error, MemoryError):
        return True
    if any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _MESSAGES)
