"""A convolution as a linear layer: the patches of its input that its kernel is multiplied with."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor
from torch.nn import functional as F


class Convolution(NamedTuple):
    """The settings of a convolution over n axes, each a tuple of n; a linear layer is a convolution over no axis.

    `padding` has the zeros before and after each axis. A transposed convolution is one whose input has `spacing` - 1
    zeros between its entries, and whose kernel is reversed; its weight is [channels, N / groups, *kernel].
    """

    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    spacing: tuple[int, ...] = ()
    transposed: bool = False


class Lookup(NamedTuple):
    """The settings of an embedding; row `padding_idx` of its weight has no gradient."""

    padding_idx: int | None = None


def convolution(
    kernel: tuple[int, ...],
    stride: int | tuple[int, ...],
    padding: int | str | tuple[int, ...],
    dilation: int | tuple[int, ...],
    groups: int,
) -> Convolution:
    """The settings from the arguments of `torch.nn.functional.conv1d` and its kin."""
    spread = _each(dilation, len(kernel))
    if padding == "same":
        missing = [d * (k - 1) for d, k in zip(spread, kernel, strict=True)]
        padded = tuple((m // 2, m - m // 2) for m in missing)
    else:
        amount = 0 if isinstance(padding, str) else padding
        padded = tuple((p, p) for p in _each(amount, len(kernel)))
    return Convolution(kernel, _each(stride, len(kernel)), padded, spread, groups)


def transposed_convolution(
    kernel: tuple[int, ...],
    stride: int | tuple[int, ...],
    padding: int | tuple[int, ...],
    output_padding: int | tuple[int, ...],
    groups: int,
    dilation: int | tuple[int, ...],
) -> Convolution:
    """The settings from the arguments of `torch.nn.functional.conv_transpose1d` and its kin."""
    axes = len(kernel)
    spread, cut, more = (_each(value, axes) for value in (dilation, padding, output_padding))
    padded = tuple(
        (d * (k - 1) - p, d * (k - 1) - p + m)
        for d, k, p, m in zip(spread, kernel, cut, more, strict=True)
    )
    return Convolution(kernel, (1,) * axes, padded, spread, groups, _each(stride, axes), True)


def _each(value: int | tuple[int, ...], axes: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * axes if len(values) == 1 else values


def patches(x: Tensor, settings: Convolution) -> Tensor:
    """The inputs of the linear layer, [..., *positions, groups, C, *kernel], of inputs [..., channels, *spatial].

    The positions are those of the kernel, and C = channels / groups. The result is a view of x, or of a copy of x with
    padding and spacing, reversed for a transposed convolution.
    """
    axes = len(settings.kernel)
    if settings.transposed:
        x = _spaced(x, settings.spacing)
    if any(zeros for pair in settings.padding for zeros in pair):
        x = F.pad(x, [zeros for pair in reversed(settings.padding) for zeros in pair])
    first = x.dim() - axes
    for axis in range(axes):
        reach = settings.dilation[axis] * (settings.kernel[axis] - 1) + 1
        x = x.unfold(first + axis, reach, settings.stride[axis])
        # Axis `axis` of the kernel is the last one now.
        x = x[..., :: settings.dilation[axis]]
    if settings.transposed:
        x = x.flip(tuple(range(-axes, 0)))
    # The channels come after the positions and before the kernel.
    return x.movedim(first - 1, first - 1 + axes).unflatten(first - 1 + axes, (settings.groups, -1))


def _spaced(x: Tensor, spacing: tuple[int, ...]) -> Tensor:
    """`x` with spacing - 1 zeros between its entries along each of the last axes."""
    axes = len(spacing)
    sizes = [(size - 1) * step + 1 for size, step in zip(x.shape[-axes:], spacing, strict=True)]
    spaced = x.new_zeros(*x.shape[:-axes], *sizes)
    entries: tuple[Any, ...] = (..., *(slice(None, None, step) for step in spacing))
    spaced[entries] = x
    return spaced
