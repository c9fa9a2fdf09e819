"""Convolution, batch normalization and ReLU of several small networks at once.

`kernels/conv_block.c` computes them; it is compiled when first needed. PyTorch computes the same
function, up to rounding, where there is no C compiler and for shapes without a kernel.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from tagging.base.files import atomic_write

SOURCE = Path(__file__).parent / "kernels" / "conv_block.c"
BUILD = Path(".build")
FLAGS = ("-O3", "-march=native", "-shared", "-fPIC")
LANES = 16
EPS = 1e-5  # default of PyTorch's batch normalization


class Geometry(NamedTuple):
    """Stride, dilation and padding of a convolution, each (height, width)."""

    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)


class _Shape(ctypes.Structure):
    """`shape_t` of kernels/conv_block.c."""

    _fields_ = [
        (name, ctypes.c_long)
        for name in (
            *("models", "x_models", "batch", "cin", "height", "width", "cout", "out_height"),
            *("out_width", "kernel_h", "kernel_w", "stride_h", "stride_w"),
            *("dilation_h", "dilation_w", "padding_h", "padding_w"),
        )
    ]


@functools.cache
def kernels() -> ctypes.CDLL | None:
    """Return the compiled kernels, or None where they cannot be compiled.

    `AUDIOSET_KERNELS=0` in the environment disables them.
    """
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if os.environ.get("AUDIOSET_KERNELS") == "0" or compiler is None:
        return None
    # The code is compiled for this processor, which the name of the machine identifies.
    source = SOURCE.read_bytes()
    key = hashlib.sha256(source + repr((FLAGS, compiler, platform.node())).encode())
    library = BUILD / f"conv_block-{key.hexdigest()[:16]}.so"
    if not library.exists():
        try:
            with atomic_write(library) as partial:
                command = [compiler, *FLAGS, "-o", str(partial), str(SOURCE), "-lm"]
                subprocess.run(command, capture_output=True, check=True)
        except subprocess.CalledProcessError:
            return None
    compiled = ctypes.CDLL(str(library.resolve()))
    shape_pointer, array_pointer = ctypes.POINTER(_Shape), ctypes.c_void_p
    compiled.conv_block_forward.argtypes = [
        shape_pointer, ctypes.c_int, ctypes.c_float, *[array_pointer] * 9,
    ]  # fmt: skip
    compiled.conv_block_backward.argtypes = [
        shape_pointer, ctypes.c_float, *[array_pointer] * 12,
    ]  # fmt: skip
    return compiled


def conv_block(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    gamma: torch.Tensor,
    beta: torch.Tensor,
    geometry: Geometry,
    statistics: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return relu(batch_norm(conv(x))) of K models, with the statistics that normalized it.

    Args:
        x: float32 (K or 1, Cin, H, W, batch), the batch innermost; 1 if all models share the input.
        weight: float32 (K, Cout, Cin, kh, kw).
        bias: float32 (K, Cout), added by the convolution.
        gamma: float32 (K, Cout), scale of the normalization.
        beta: float32 (K, Cout), shift of the normalization.
        geometry: stride, dilation and padding of the convolution.
        statistics: mean and biased variance, float32 (K, Cout), for evaluation; None in training,
            which normalizes by the statistics of the batch.

    Returns:
        y float32 (K, Cout, Ho, Wo, batch), mean and biased variance float32 (K, Cout).
    """
    usable = x.shape[-1] % LANES == 0 and x.device.type == "cpu" and x.dtype == torch.float32
    if usable and weight.shape[1] in (2, 4, 5, 8) and kernels() is not None:
        mean, var = statistics or (torch.empty_like(bias), torch.empty_like(bias))
        training = statistics is None
        y = _ConvBlock.apply(x, weight, bias, gamma, beta, mean, var, geometry, training)
        return y, mean, var
    return _reference(x, weight, bias, gamma, beta, geometry, statistics)


def _reference(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    gamma: torch.Tensor,
    beta: torch.Tensor,
    geometry: Geometry,
    statistics: tuple[torch.Tensor, torch.Tensor] | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute `conv_block` in PyTorch: K models are K groups of channels."""
    models, cout = weight.shape[:2]
    image = x.expand(models, *x.shape[1:]).permute(4, 0, 1, 2, 3).flatten(1, 2)
    z = functional.conv2d(
        image, weight.flatten(0, 1), bias.flatten(), *_conv2d_order(geometry), groups=models
    )  # (batch, K * Cout, Ho, Wo)
    if statistics is None:
        var, mean = torch.var_mean(z.detach(), dim=(0, 2, 3), correction=0)
        y = functional.batch_norm(z, None, None, gamma.flatten(), beta.flatten(), training=True)
    else:
        mean, var = (part.flatten() for part in statistics)
        y = functional.batch_norm(z, mean, var, gamma.flatten(), beta.flatten())
    y = y.relu().unflatten(1, (models, cout)).permute(1, 2, 3, 4, 0)
    return y.contiguous(), mean.view(models, cout), var.view(models, cout)


def _conv2d_order(geometry: Geometry) -> tuple[tuple[int, int], ...]:
    return geometry.stride, geometry.padding, geometry.dilation


@functools.cache
def _shape(x: torch.Size, weight: torch.Size, geometry: Geometry) -> _Shape:
    """Return the sizes as the kernels expect them."""
    models, cout, cin, *kernel = weight
    out = [
        (size + 2 * padding - dilation * (taps - 1) - 1) // stride + 1
        for size, taps, stride, dilation, padding in zip(x[2:4], kernel, *geometry, strict=True)
    ]
    return _Shape(
        models, x[0], x[4], cin, *x[2:4], cout, *out, *kernel,
        *geometry.stride, *geometry.dilation, *geometry.padding,
    )  # fmt: skip


class _ConvBlock(torch.autograd.Function):
    """The kernels as a differentiable function of x, weight, gamma and beta."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        gamma: torch.Tensor,
        beta: torch.Tensor,
        mean: torch.Tensor,
        var: torch.Tensor,
        geometry: Geometry,
        training: bool,
    ) -> torch.Tensor:
        # Views into the rows of a larger array have gaps between models; kernels assume none.
        x, weight, bias, gamma, beta = map(torch.Tensor.contiguous, (x, weight, bias, gamma, beta))
        shape = _shape(x.shape, weight.shape, geometry)
        y = x.new_empty(shape.models, shape.cout, shape.out_height, shape.out_width, shape.batch)
        z = torch.empty_like(y)
        kernels().conv_block_forward(
            shape, training, EPS,
            *map(torch.Tensor.data_ptr, (x, weight, bias, gamma, beta, mean, var, z, y)),
        )  # fmt: skip
        ctx.shape = shape
        ctx.save_for_backward(x, weight, gamma, beta, mean, var, z)
        return y

    @staticmethod
    def backward(ctx: Any, gy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, gamma, beta, mean, var, z = ctx.saved_tensors
        gy = gy.contiguous()
        gx = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        gweight, ggamma, gbeta = map(torch.empty_like, (weight, gamma, beta))
        kernels().conv_block_backward(
            ctx.shape, EPS,
            *map(torch.Tensor.data_ptr, (gy, x, z, weight, gamma, beta, mean, var)),
            None if gx is None else gx.data_ptr(),
            *map(torch.Tensor.data_ptr, (gweight, ggamma, gbeta)),
        )  # fmt: skip
        # Normalization removes any shift of a channel: the gradient of the bias is zero.
        return gx, gweight, None, ggamma, gbeta, None, None, None, None
