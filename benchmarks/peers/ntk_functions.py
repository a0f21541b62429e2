"""The networks of `ntk_models.py` as functions of arrays, for jax, which runs where torch is not installed.

Every function takes the operations of a library, the weights by the names of `module.named_parameters()`, and the
inputs [B, …], and returns outputs [B, O].
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

# Of numpy or of jax.
Array = Any
Weights = dict[str, Array]


class Convolve(Protocol):
    """A 2-d convolution."""

    def __call__(self, x: Array, weight: Array, stride: int) -> Array:
        """Of images [B, C, H, W] by weights [O, C, 3, 3], padded with a zero on each side."""
        ...


class Operations(NamedTuple):
    """What the functions need of a library."""

    # `numpy` or `jax.numpy`.
    arrays: Any
    relu: Any
    # By the error function, as torch has it.
    gelu: Any
    sigmoid: Any
    # Over the last axis.
    softmax: Any
    convolve: Convolve


def perceptron_outputs(of: Operations, weights: Weights, x: Array, prefix: str = "") -> Array:
    """`Perceptron`."""
    last = sum(name.startswith(f"{prefix}layers.") for name in weights) // 2 - 1
    for i in range(last):
        x = of.relu(_linear(weights, f"{prefix}layers.{i}", x))
    return _linear(weights, f"{prefix}layers.{last}", x)


def convolutional_network_outputs(of: Operations, weights: Weights, x: Array) -> Array:
    """`ConvolutionalNetwork`."""
    for i in range(len(weights) // 2 - 1):
        convolved = of.convolve(x, weights[f"layers.{i}.weight"], 1 if i == 0 else 2)
        x = of.relu(convolved + weights[f"layers.{i}.bias"][:, None, None])
    return _linear(weights, "readout", x.mean((2, 3)))


def transformer_outputs(of: Operations, weights: Weights, x: Array, heads: int) -> Array:
    """`Transformer`."""
    B, T, width = x.shape
    for i in range(sum(name.endswith("up.weight") for name in weights)):
        block = f"blocks.{i}."
        normal = _normalised(of, weights, f"{block}before_attention", x)
        merged = _linear(weights, f"{block}queries_keys_values", normal)
        q, k, v = merged.reshape(B, T, 3, heads, -1).transpose(2, 0, 3, 1, 4)
        attention = of.softmax(q @ k.swapaxes(-1, -2) / (width // heads) ** 0.5)
        attended = (attention @ v).swapaxes(1, 2).reshape(B, T, width)
        x = x + _linear(weights, f"{block}mixed", attended)
        normal = _normalised(of, weights, f"{block}before_layers", x)
        x = x + _linear(weights, f"{block}down", of.gelu(_linear(weights, f"{block}up", normal)))
    return _linear(weights, "readout", _normalised(of, weights, "last", x).mean(1))


def gated_network_outputs(of: Operations, weights: Weights, x: Array) -> Array:
    """`GatedNetwork`."""
    drives = x @ weights["rnn.weight_ih_l0"].T + weights["rnn.bias_ih_l0"]
    recurrent, bias = weights["rnn.weight_hh_l0"], weights["rnn.bias_hh_l0"]
    N = recurrent.shape[1]
    h = of.arrays.zeros_like(x, shape=(len(x), N))
    for t in range(x.shape[1]):
        drive, held = drives[:, t], h @ recurrent.T + bias
        gates = of.sigmoid(drive[:, : 2 * N] + held[:, : 2 * N])
        proposed = of.arrays.tanh(drive[:, 2 * N :] + gates[:, :N] * held[:, 2 * N :])
        h = (1 - gates[:, N:]) * proposed + gates[:, N:] * h
    return _linear(weights, "readout", h)


def bag_of_tokens_outputs(of: Operations, weights: Weights, x: Array) -> Array:
    """`BagOfTokens`."""
    return perceptron_outputs(of, weights, weights["embedding.weight"][x].mean(1), "perceptron.")


def leaky_network_outputs(
    of: Operations, weights: Weights, x: Array, rho: float, last: bool
) -> Array:
    """`LeakyNetwork`."""
    drives = x @ weights["input"].T
    rates = h = of.arrays.zeros_like(x, shape=(len(x), len(weights["recurrent"])))
    found = []
    for t in range(x.shape[1]):
        h = rho * h + (1 - rho) * (rates @ weights["recurrent"].T + drives[:, t])
        rates = of.relu(h)
        found.append(rates)
    y = of.arrays.stack(found[-1:] if last else found, axis=1)
    y = y @ weights["readout"].T if "readout" in weights else y
    return y.reshape(len(x), -1)


def _linear(weights: Weights, name: str, x: Array) -> Array:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def _normalised(of: Operations, weights: Weights, name: str, x: Array) -> Array:
    """Layer normalisation of the last axis."""
    centred = x - x.mean(-1, keepdims=True)
    scale = of.arrays.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return centred / scale * weights[f"{name}.weight"] + weights[f"{name}.bias"]


FUNCTIONS: dict[str, Any] = {
    "perceptron": perceptron_outputs,
    "convolutional network": convolutional_network_outputs,
    "transformer": transformer_outputs,
    "gated network": gated_network_outputs,
    "bag of tokens": bag_of_tokens_outputs,
    "leaky network": leaky_network_outputs,
}
