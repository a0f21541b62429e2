"""The calls of `torch.nn.functional` whose parameters are recorded, and what their arguments mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from hpr_kernels.tangent.patches import Convolution, Lookup, convolution, transposed_convolution

LINEAR = Convolution()
FLOATING = (torch.float32, torch.float64)


class Scale(NamedTuple):
    """The settings of the affine of a norm, y = w ∘ z + b; the channels come before the last `axes` axes of z.

    The gradient by w is Σ_s g_s ∘ z_s over the positions s, which is no larger than w and is written out.
    """

    axes: int = 0


Settings = Convolution | Lookup | Scale


class Call(NamedTuple):
    """The arguments of a call that multiplies a weight into an input.

    `normalised` computes the input of a norm's affine, which is the norm without the affine, from `input`.
    """

    settings: Settings
    input: Tensor
    weight: Tensor | None
    bias: Tensor | None
    units: int
    normalised: Callable[[], Tensor] | None = None


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Call | None:
    if weight.dim() != 2 or input.dtype not in FLOATING:
        return None
    return Call(LINEAR, input, weight, bias, len(weight))


def _convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Call | None:
    if input.dtype not in FLOATING:
        return None
    settings = convolution(tuple(weight.shape[2:]), stride, padding, dilation, groups)
    return Call(settings, input, weight, bias, len(weight))


def _transposed(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Call | None:
    if input.dtype not in FLOATING:
        return None
    kernel = tuple(weight.shape[2:])
    settings = transposed_convolution(kernel, stride, padding, output_padding, groups, dilation)
    return Call(settings, input, weight, bias, weight.shape[1] * groups)


def _embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Call | None:
    if max_norm is not None or scale_grad_by_freq or sparse or weight.dtype not in FLOATING:
        return None
    if padding_idx is not None and padding_idx < 0:
        padding_idx += len(weight)
    return Call(Lookup(padding_idx), input, weight, None, weight.shape[1])


def _layer_norm(
    input: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Call | None:
    return _norm(0, input, weight, bias, lambda: F.layer_norm(input, normalized_shape, eps=eps))


def _rms_norm(
    input: Tensor, normalized_shape: Any, weight: Tensor | None = None, eps: float | None = None
) -> Call | None:
    return _norm(0, input, weight, None, lambda: F.rms_norm(input, normalized_shape, eps=eps))


def _group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Call | None:
    axes = input.dim() - 2
    return _norm(axes, input, weight, bias, lambda: F.group_norm(input, num_groups, eps=eps))


def _instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Call | None:
    def normalised() -> Tensor:
        return F.instance_norm(
            input, running_mean, running_var, None, None, use_input_stats, momentum, eps
        )

    return _norm(input.dim() - 2, input, weight, bias, normalised)


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Call | None:
    def normalised() -> Tensor:
        return F.batch_norm(input, running_mean, running_var, None, None, training, momentum, eps)

    return _norm(input.dim() - 2, input, weight, bias, normalised)


def _norm(
    axes: int,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    normalised: Callable[[], Tensor],
) -> Call | None:
    given = [value for value in (weight, bias) if value is not None]
    if input.dtype not in FLOATING or any(value.dtype != input.dtype for value in given):
        return None
    units = given[0].numel() if given else 0
    return Call(Scale(axes), input, weight, bias, units, normalised)


CALLS: dict[Callable[..., Tensor], Callable[..., Call | None]] = {
    F.linear: _linear,
    F.conv1d: _convolution,
    F.conv2d: _convolution,
    F.conv3d: _convolution,
    F.conv_transpose1d: _transposed,
    F.conv_transpose2d: _transposed,
    F.conv_transpose3d: _transposed,
    F.embedding: _embedding,
    F.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    F.group_norm: _group_norm,
    F.instance_norm: _instance_norm,
    F.batch_norm: _batch_norm,
}


def affine(z: Tensor, weight: Tensor | None, bias: Tensor | None, axes: int) -> Tensor:
    """w ∘ z + b, where the channels come before the last `axes` axes of z; None stands for 1 and 0."""
    if weight is not None:
        z = z * weight.reshape(*weight.shape, *(1,) * axes)
    if bias is not None:
        z = z + bias.reshape(*bias.shape, *(1,) * axes)
    return z


def kind(settings: Settings) -> str:
    """The kind of operation, in a word."""
    if isinstance(settings, Convolution):
        return "convolution" if settings.kernel else "linear"
    return "embedding" if isinstance(settings, Lookup) else "scale"


def form(settings: Settings) -> tuple[Any, ...]:
    """What uses of one weight must have in common, so that their gradients can be added."""
    if isinstance(settings, Convolution):
        return len(settings.kernel), settings.groups, settings.transposed
    return (type(settings),)
