"""What every Triton kernel here needs: Triton itself, imported on first use, and checked arguments.

A kernel is a plain function that calls triton.language `tl`; `launch` runs it. Triton is imported
there and not at the top because machines without CUDA do not have it, and must still import these modules for
the torch expressions beside the kernels.

With TRITON_INTERPRET=1 in the environment before Triton is first imported, kernels run on CPU tensors in
Triton's interpreter: right and very slow, for tests alone. Its bfloat16 arithmetic is wrong (Triton 3.9), so
kernels convert to float32 as they load, which they have to do for their accuracy anyway.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from d2r_fast.engine.errors import UserError

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
"""The floating dtypes that kernels load; they compute in float32 or wider."""


def launch(
    kernel: Callable[..., None], grid: tuple[int, ...], output: torch.Tensor, *args: Any, **options: Any
) -> None:
    """Runs the kernel on `grid` programs, on the device of its first argument, in that device's stream.

    Raises:
        ValueError: a device that is not CUDA.
        UserError: Triton is not installed.
    """
    if output.device.type != "cuda" and not _import_triton().knobs.runtime.interpret:
        raise ValueError(f"tensors are on {output.device}: a Triton kernel runs on CUDA tensors alone")
    with torch.cuda.device_of(output):  # type: ignore[no-untyped-call]
        jit(kernel)[grid](output, *args, **options)


@cache
def jit(kernel: Callable[..., None]) -> Any:
    """The kernel as Triton knows it.

    Raises:
        UserError: Triton is not installed.
    """
    triton = _import_triton()
    # Triton looks names up in the globals of the kernel's module.
    kernel.__globals__["tl"] = triton.language
    return triton.jit(kernel)


def check(
    name: str,
    tensor: torch.Tensor,
    shape: tuple[int, ...],
    *,
    dtypes: tuple[torch.dtype, ...],
    device: torch.device,
) -> None:
    """That a kernel can read `tensor` as a dense array of this shape.

    Raises:
        ValueError: another dtype, shape, stride or device.
    """
    fits = tensor.dtype in dtypes and tuple(tensor.shape) == shape
    if not (fits and tensor.is_contiguous() and tensor.device == device):
        raise ValueError(
            f"{name} is {tensor.dtype} {tuple(tensor.shape)} with strides {tensor.stride()} on "
            f"{tensor.device}: expected {' or '.join(map(str, dtypes))} {shape}, contiguous, on {device}"
        )


def _import_triton() -> Any:
    try:
        import triton
        import triton.language
    except ImportError:
        raise UserError("GPU kernels need Triton, which is not here: pip install 'd2r-fast[gpu]'") from None
    return triton
