"""The networks whose NTK the methods compute: six kinds of module with their inputs, parametrised by size.

`ntk_functions.py` beside this file has the same networks as functions of arrays, for jax. A module maps [B, …] to
[B, O], takes each example on its own, and consists of operations that `torch.func` maps and differentiates.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.suites.calls import LeakyNetwork
from benchmarks.suites.cases import RHO, SHAPES, NetworkShape, draw_network


class Model(NamedTuple):
    """A network and its inputs: how they are made, and the function in `ntk_functions.py` that is the same network."""

    module: Callable[[], nn.Module]
    inputs: Callable[[], Tensor]
    function: str
    # Arguments of the function beside the weights and the inputs.
    settings: dict[str, Any]
    # Sizes of a leaky network, which has a fused path as well.
    shape: NetworkShape | None = None

    def drawn(self, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Tensor]:
        """The module and its inputs [B, …]: the same fp32 numbers at every call, in any dtype."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module, x = self.module().eval(), self.inputs()
        return module.to(dtype), x.to(dtype) if x.is_floating_point() else x


class Perceptron(nn.Module):
    """Linear layers of the given widths with ReLU between them."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(map(nn.Linear, widths, widths[1:]))

    def forward(self, x: Tensor) -> Tensor:
        """Outputs [B, O] of inputs [B, N]."""
        *hidden, last = self.layers
        for layer in hidden:
            x = layer(x).relu()
        return last(x)


class ConvolutionalNetwork(nn.Module):
    """Convolutions of 3 x 3, the second and later ones with stride 2, the mean over pixels, and a linear layer."""

    def __init__(self, channels: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=1 if i == 0 else 2, padding=1)
            for i, (before, after) in enumerate(itertools.pairwise(channels))
        )
        self.readout = nn.Linear(channels[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs [B, O] of images [B, C, H, W]."""
        for layer in self.layers:
            x = layer(x).relu()
        return self.readout(x.mean((2, 3)))


class Block(nn.Module):
    """Self-attention and two linear layers with GELU between them, each added to the input and normalised first."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_layers = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values, self.mixed = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs [B, T, width] of inputs of the same size."""
        B, T, width = x.shape
        merged = self.queries_keys_values(self.before_attention(x))
        q, k, v = merged.view(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        # Torch's fused attention has no rule for vmap or forward differentiation on the CPU.
        weights = (q @ k.mT / (width // self.heads) ** 0.5).softmax(-1)
        x = x + self.mixed((weights @ v).movedim(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.before_layers(x))))


class Transformer(nn.Module):
    """Blocks in a row, normalisation, the mean over tokens, and a linear layer."""

    def __init__(self, layers: int, width: int, heads: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads, hidden) for _ in range(layers))
        self.last, self.readout = nn.LayerNorm(width), nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs [B, O] of embedded tokens [B, T, width]."""
        for block in self.blocks:
            x = block(x)
        return self.readout(self.last(x).mean(1))


class GatedNetwork(nn.Module):
    """One layer of `nn.GRU` and a linear layer that reads its last state.

    `torch.func` has no rule to map `nn.GRU`. With `composed` the same weights go through linear calls, step by step.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.rnn = nn.GRU(inputs, hidden, batch_first=True)
        self.readout = nn.Linear(hidden, outputs)
        self.composed = True

    def forward(self, x: Tensor) -> Tensor:
        """Outputs [B, O] of inputs [B, T, N_in]."""
        return self.readout(self._last_state(x) if self.composed else self.rnn(x)[0][:, -1])

    def _last_state(self, x: Tensor) -> Tensor:
        input, recurrent, input_bias, recurrent_bias = self.rnn.all_weights[0]
        drives = F.linear(x, input, input_bias)
        h = x.new_zeros(len(x), self.rnn.hidden_size)
        for drive in drives.unbind(1):
            reset, update, new = F.linear(h, recurrent, recurrent_bias).chunk(3, -1)
            reset_drive, update_drive, new_drive = drive.chunk(3, -1)
            gate = (update_drive + update).sigmoid()
            proposed = (new_drive + (reset_drive + reset).sigmoid() * new).tanh()
            h = (1 - gate) * proposed + gate * h
        return h


class BagOfTokens(nn.Module):
    """The mean of the tokens' embeddings, and a perceptron."""

    def __init__(self, vocabulary: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, widths[0])
        self.perceptron = Perceptron(widths)

    def forward(self, tokens: Tensor) -> Tensor:
        """Outputs [B, O] of tokens [B, T]."""
        return self.perceptron(self.embedding(tokens).mean(1))


def perceptron(B: int, widths: tuple[int, ...]) -> Model:
    """Normal inputs."""
    return Model(partial(Perceptron, widths), partial(torch.randn, B, widths[0]), "perceptron", {})


def convolutional_network(B: int, channels: tuple[int, ...], pixels: int, outputs: int) -> Model:
    """Square images of normal pixels."""
    return Model(
        partial(ConvolutionalNetwork, channels, outputs),
        partial(torch.randn, B, channels[0], pixels, pixels),
        "convolutional network",
        {},
    )


def transformer(
    B: int, tokens: int, layers: int, width: int, heads: int, hidden: int, outputs: int
) -> Model:
    """Normal tokens."""
    return Model(
        partial(Transformer, layers, width, heads, hidden, outputs),
        partial(torch.randn, B, tokens, width),
        "transformer",
        {"heads": heads},
    )


def gated_network(B: int, steps: int, inputs: int, hidden: int, outputs: int) -> Model:
    """Normal inputs."""
    return Model(
        partial(GatedNetwork, inputs, hidden, outputs),
        partial(torch.randn, B, steps, inputs),
        "gated network",
        {},
    )


def bag_of_tokens(B: int, tokens: int, vocabulary: int, widths: tuple[int, ...]) -> Model:
    """Uniform tokens."""
    return Model(
        partial(BagOfTokens, vocabulary, widths),
        partial(torch.randint, vocabulary, (B, tokens)),
        "bag of tokens",
        {},
    )


def leaky_network(shape: NetworkShape) -> Model:
    """The weights and inputs that suites and floors measure."""
    return Model(
        partial(LeakyNetwork, shape),
        partial(leaky_inputs, shape),
        "leaky network",
        {"rho": RHO, "last": shape.outputs == "last"},
        shape,
    )


def leaky_inputs(shape: NetworkShape) -> Tensor:
    """Inputs [B, T, N_in]."""
    return draw_network(shape).x.movedim(1, 0)


MODELS = {
    "perceptron": perceptron(64, (784, 1024, 1024, 10)),
    "CNN": convolutional_network(16, (3, 32, 64, 128), 32, 10),
    "transformer": transformer(16, 64, layers=4, width=256, heads=4, hidden=1024, outputs=10),
    "GRU": gated_network(16, 50, inputs=64, hidden=256, outputs=10),
    "embedding": bag_of_tokens(32, 64, 20_000, (128, 256, 10)),
    **{name: leaky_network(shape) for name, shape in SHAPES.items()},
}
