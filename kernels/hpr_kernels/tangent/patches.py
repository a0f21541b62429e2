"""A convolution as a linear layer: the patches of its input that its kernel is multiplied with."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F


class Convolution(NamedTuple):
    """The settings of a convolution over n axes, each a tuple of n; a linear layer is a convolution over no axis.

    `padding` has the zeros before and after each axis.
    """

    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1


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


def _each(value: int | tuple[int, ...], axes: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * axes if len(values) == 1 else values


def patches(x: Tensor, settings: Convolution) -> Tensor:
    """The inputs of the linear layer, [B, S, groups, F], of inputs [B, …, channels, *spatial].

    S counts the entries of "…" times the positions of the kernel; F = channels / groups · size of the kernel.
    """
    axes = len(settings.kernel)
    x = F.pad(x, [zeros for pair in reversed(settings.padding) for zeros in pair])
    first = x.dim() - axes
    for axis in range(axes):
        reach = settings.dilation[axis] * (settings.kernel[axis] - 1) + 1
        x = x.unfold(first + axis, reach, settings.stride[axis])
        # Axis `axis` of the kernel is the last one now.
        x = x[..., :: settings.dilation[axis]]
    # The channels come after the positions, as in the weight [N, channels / groups, *kernel].
    x = x.movedim(first - 1, first - 1 + axes)
    features = x.shape[first - 1 + axes :].numel() // settings.groups
    return x.reshape(len(x), -1, settings.groups, features)
