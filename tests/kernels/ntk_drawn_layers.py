"""Random layers over vectors, sequences and images, for `ntk_drawn`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

# From a part and a batch to a batch.
Apply = Callable[[Any, Tensor], Tensor]
Draw = Callable[[Any], Any]
# Norms of numbers that are nearly equal would magnify the rounding errors.
EPS = 0.1


class Made(NamedTuple):
    """A part with parameters, or None, and what it does with a batch."""

    text: str
    part: nn.Module | None
    apply: Apply


def plain(part: nn.Module, text: str = "") -> Made:
    return Made(text or type(part).__name__, part, lambda part, x: part(x))


def divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def choose(draw: Draw, *choices: Any) -> Any:
    return draw(st.sampled_from(choices))


def flag(draw: Draw) -> bool:
    return draw(st.booleans())


def linear(draw: Draw, shape: tuple[int, ...]) -> Made:
    return plain(nn.Linear(shape[-1], draw(st.integers(1, 4)), bias=flag(draw)))


def bilinear(draw: Draw, shape: tuple[int, ...]) -> Made:
    part = nn.Bilinear(shape[-1], shape[-1], draw(st.integers(1, 3)))
    return Made("bilinear", part, lambda part, x: part(x, x.sin()))


class Affine(nn.Module):
    """X ∘ scale + table, with a scale of each feature and a table of the shape of an example."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(shape[-1]))
        self.table = nn.Parameter(torch.ones(shape))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.table


def affine(draw: Draw, shape: tuple[int, ...]) -> Made:
    return plain(Affine(shape))


def norm(draw: Draw, shape: tuple[int, ...]) -> Made:
    kinds = ["rms", "batch"]
    # The norm of one number is zero, and the gradients by all layers before it are rounding errors.
    if torch.Size(shape).numel() > 1:
        kinds += ["layer", "group"]
    if torch.Size(shape[1:]).numel() > 1:
        kinds.append("instance")
    kind = draw(st.sampled_from(kinds))
    axes = draw(st.integers(1, len(shape)))
    if kind == "rms":
        return plain(nn.RMSNorm(shape[-axes:], eps=EPS))
    if kind == "layer":
        sizes = shape[-axes:] if torch.Size(shape[-axes:]).numel() > 1 else shape
        return plain(nn.LayerNorm(sizes, EPS, bias=flag(draw)))
    if kind == "group":
        size = torch.Size(shape).numel()
        groups = [n for n in divisors(shape[0]) if size // n > 1]
        return plain(nn.GroupNorm(choose(draw, *groups), shape[0], EPS))
    axes = max(1, len(shape) - 1)
    if kind == "instance":
        made = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d}[axes]
        return plain(made(shape[0], EPS, affine=True, track_running_stats=flag(draw)))
    part = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d}[axes](shape[0], EPS)
    assert part.running_mean is not None
    assert part.running_var is not None
    part.running_mean.normal_()
    part.running_var.uniform_(0.5, 2)
    return plain(part)


def geometry(draw: Draw, length: int) -> tuple[int, int, int, int]:
    """Kernel, stride, padding and dilation that leave a position of `length`."""
    kernel, stride, padding, dilation = (
        draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(0, 2)), draw(st.integers(1, 2)),
    )  # fmt: skip
    while length + 2 * padding <= dilation * (kernel - 1):
        padding += 1
    return kernel, stride, padding, dilation


def convolution(draw: Draw, shape: tuple[int, ...]) -> Made:
    groups = choose(draw, *divisors(shape[0]))
    channels = groups * draw(st.integers(1, 2))
    mode = choose(draw, "zeros", "zeros", "replicate")
    each = [geometry(draw, length) for length in shape[1:]]
    kernel, stride, padding, dilation = (list(values) for values in zip(*each, strict=True))
    made: Any = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[len(each)]
    same: Any = "same" if choose(draw, 0, 0, 0, 1) else tuple(padding)
    if same == "same":
        # Torch warns of those whose padding is uneven.
        stride, kernel = [1] * len(each), [1 + 2 * (k // 2) for k in kernel]
    return plain(
        made(
            shape[0], channels, tuple(kernel), tuple(stride), same, tuple(dilation), groups,
            bias=flag(draw), padding_mode=mode,
        )
    )  # fmt: skip


def transposed(draw: Draw, shape: tuple[int, ...]) -> Made:
    groups = choose(draw, *divisors(shape[0]))
    each = []
    for length in shape[1:]:
        kernel, stride, padding, dilation = geometry(draw, length)
        more = draw(st.integers(0, max(stride, dilation) - 1))
        while (length - 1) * stride - 2 * padding + dilation * (kernel - 1) + more < 0:
            padding -= 1
        each.append((kernel, stride, padding, more, dilation))
    kernels, strides, paddings, mores, dilations = (tuple(v) for v in zip(*each, strict=True))
    made: Any = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[len(each)]
    return plain(
        made(
            shape[0], groups * draw(st.integers(1, 2)), kernels, strides, paddings, mores, groups,
            flag(draw), dilations,
        )
    )  # fmt: skip


def over_steps(layer: Callable[[Draw, tuple[int, ...]], Made]) -> Callable[..., Made]:
    """The convolution with the features as channels, which come first."""

    def made(draw: Draw, shape: tuple[int, ...]) -> Made:
        one = layer(draw, shape[::-1])
        return one._replace(
            text=f"{one.text} over steps", apply=lambda part, x: part(x.mT).mT.contiguous()
        )

    return made


def in_space(layer: Callable[[Draw, tuple[int, ...]], Made]) -> Callable[..., Made]:
    """The convolution over three axes: the channels of an image are the first, and it has one channel."""

    def made(draw: Draw, shape: tuple[int, ...]) -> Made:
        one = layer(draw, (1, *shape))
        return one._replace(
            text=f"{one.text} in space", apply=lambda part, x: part(x[:, None]).flatten(1, 2)
        )

    return made


def recurrent(draw: Draw, shape: tuple[int, ...]) -> Made:
    kind = choose(draw, nn.RNN, nn.GRU, nn.LSTM)
    first, both = flag(draw), choose(draw, True, False, True)
    options: dict[str, Any] = {}
    size = draw(st.integers(1, 3))
    if kind is nn.RNN:
        options["nonlinearity"] = choose(draw, "tanh", "relu")
    if kind is nn.LSTM and size > 1 and flag(draw):
        options["proj_size"] = size - 1
    part = kind(
        shape[-1], size, draw(st.integers(1, 2)), bias=flag(draw), batch_first=first,
        bidirectional=both, **options,
    )  # fmt: skip
    last = flag(draw)

    def apply(part: Any, x: Tensor) -> Tensor:
        y, state = part(x if first else x.transpose(0, 1))
        if last:
            h = state[0] if isinstance(state, tuple) else state
            return h.transpose(0, 1).contiguous()
        return y if first else y.transpose(0, 1)

    return Made(f"{'last state' if last else 'outputs'} of {part}", part, apply)


def cell(draw: Draw, shape: tuple[int, ...]) -> Made:
    kind = choose(draw, nn.RNNCell, nn.GRUCell, nn.LSTMCell)
    size = draw(st.integers(1, 3))
    part = kind(shape[-1], size, bias=flag(draw))

    def apply(part: Any, x: Tensor) -> Tensor:
        steps = x.unbind(1) if x.dim() == 3 else (x, x.sin())
        h: Any = None
        for step in steps:
            h = part(step, h)
        return h[0] + h[1] if isinstance(h, tuple) else h

    return Made(f"loop of {part}", part, apply)


def attention(draw: Draw, shape: tuple[int, ...]) -> Made:
    S, width = shape
    heads, first, bias, cross = choose(draw, *divisors(width)), flag(draw), flag(draw), flag(draw)
    keys = choose(draw, None, max(1, width - 1)) if cross else None
    extra = bias and choose(draw, False, False, True)
    zero = choose(draw, False, False, True)
    part = nn.MultiheadAttention(
        width, heads, 0.0, bias, add_bias_kv=extra, add_zero_attn=zero, kdim=keys, vdim=keys,
        batch_first=first,
    )  # fmt: skip
    mask = choose(draw, None, "causal", "added", "padding")
    need = flag(draw)

    def apply(part: Any, x: Tensor) -> Tensor:
        memory = x.flip(1).sin()[..., :keys] if cross else x
        options: dict[str, Any] = {}
        if mask == "causal":
            options["attn_mask"] = torch.ones(S, S, dtype=torch.bool).triu(1)
        elif mask == "added":
            options["attn_mask"] = torch.arange(S * S).view(S, S).cos().to(x)
        elif mask == "padding":
            options["key_padding_mask"] = (memory[..., 0] < 0) & (torch.arange(S) > 0)
        if first:
            return part(x, memory, memory, need_weights=need, **options)[0]
        x, memory = x.transpose(0, 1), memory.transpose(0, 1)
        return part(x, memory, memory, need_weights=need, **options)[0].transpose(0, 1)

    text = f"attention, {'cross' if cross else 'self'}, {heads} heads, mask {mask}, weights {need}, keys {keys}"
    return Made(f"{text}, first {first}, extra {extra}", part, apply)


def encoder(draw: Draw, shape: tuple[int, ...]) -> Made:
    S, width = shape
    activation, before, mask = (
        choose(draw, "relu", "gelu"),
        flag(draw),
        choose(draw, None, "causal", "padding", "both"),
    )
    part = nn.TransformerEncoderLayer(
        width, choose(draw, *divisors(width)), 3, 0.1, activation, EPS, True, before, bias=flag(draw)
    )  # fmt: skip

    def apply(part: Any, x: Tensor) -> Tensor:
        causal = torch.ones(S, S, dtype=torch.bool).triu(1) if mask in ("causal", "both") else None
        # The first step is never padded, so that each step attends to one at the least.
        padding = (x[..., 0] < 0) & (torch.arange(S) > 0) if mask in ("padding", "both") else None
        return part(x, src_mask=causal, src_key_padding_mask=padding)

    return Made(f"encoder, {activation}, norm first {before}, mask {mask}", part, apply)


def without_parameters(draw: Draw, shape: tuple[int, ...]) -> Made:
    """An activation, a pooling, or another shape."""
    functions: dict[str, Apply] = {
        "relu": lambda _, x: x.relu(),
        "tanh": lambda _, x: x.tanh(),
        "gelu": lambda _, x: nn.functional.gelu(x),
    }
    if len(shape) == 1:
        functions["unflatten"] = lambda _, x: x.unflatten(1, (x.shape[1], 1))
    else:
        functions["flatten"] = lambda _, x: x.flatten(1)
        functions["mean"] = lambda _, x: x.mean(1)
        functions["last"] = lambda _, x: x[:, -1]
        functions["flip"] = lambda _, x: x.flip(1)
    if len(shape) == 2:
        functions["pairs of steps"] = lambda _, x: nn.functional.avg_pool1d(x.mT, 2, 1, 1).mT
        functions["largest"] = lambda _, x: nn.functional.max_pool1d(x, 2, 2, 1)
        functions["image"] = lambda _, x: x[:, None]
    if len(shape) == 3:
        functions["average pool"] = lambda _, x: nn.functional.avg_pool2d(x, 2, 1, 1)
        functions["max pool"] = lambda _, x: nn.functional.max_pool2d(x, 2, 2, 1)
        functions["adaptive"] = lambda _, x: nn.functional.adaptive_avg_pool2d(x, (1, 2))
        functions["sequence"] = lambda _, x: x.flatten(2)
    text = draw(st.sampled_from(sorted(functions)))
    return Made(text, None, functions[text])


# The last of each has no parameters.
VECTORS = [linear, linear, norm, affine, bilinear, cell, without_parameters]
SEQUENCES = [
    linear, norm, affine, convolution, over_steps(convolution), transposed, over_steps(transposed),
    recurrent, recurrent, recurrent, cell, attention, attention, encoder, without_parameters,
]  # fmt: skip
IMAGES = [
    convolution, transposed, in_space(convolution), in_space(convolution), in_space(transposed), norm, affine, linear,
    without_parameters,
]  # fmt: skip
