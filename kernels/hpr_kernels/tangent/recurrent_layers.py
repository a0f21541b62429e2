"""Torch's recurrent layers and cells, composed of `torch.nn.functional.linear`, with torch's equations.

`torch.func.vmap` has no rule for the fused layers, and their weights are used at every step, out of sight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# h, or (h, c) of an LSTM.
State = tuple[Tensor, ...]
# From the input's and the recurrent linear layer's results and the state before to the state after a step.
Step = Callable[[Tensor, Tensor, State], State]


def _simple(activation: Callable[[Tensor], Tensor]) -> Step:
    return lambda by_input, by_state, state: (activation(by_input + by_state),)


def _gru(by_input: Tensor, by_state: Tensor, state: State) -> State:
    """r, z = σ(…), n = tanh(i_n + r ∘ h_n), h' = (1 - z) ∘ n + z ∘ h."""
    (i_r, i_z, i_n), (h_r, h_z, h_n) = by_input.chunk(3, -1), by_state.chunk(3, -1)
    new = (i_n + (i_r + h_r).sigmoid() * h_n).tanh()
    return (new + (i_z + h_z).sigmoid() * (state[0] - new),)


def _lstm(by_input: Tensor, by_state: Tensor, state: State) -> State:
    """c' = σ(f) ∘ c + σ(i) ∘ tanh(g), h' = σ(o) ∘ tanh(c'), before the projection of h'."""
    i, f, g, o = (by_input + by_state).chunk(4, -1)
    c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


ARGUMENTS = (
    "input", "hx", "params", "has_biases", "num_layers", "dropout", "train", "bidirectional", "batch_first",
)  # fmt: skip
STEPS: dict[Any, Step] = {
    torch.rnn_tanh: _simple(torch.tanh),
    torch.rnn_relu: _simple(torch.relu),
    torch.gru: _gru,
    torch.lstm: _lstm,
}
CELLS: dict[Any, Step] = {
    torch.rnn_tanh_cell: _simple(torch.tanh),
    torch.rnn_relu_cell: _simple(torch.relu),
    torch.gru_cell: _gru,
    torch.lstm_cell: _lstm,
}


def can_compose(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether it is a call of a recurrent layer or cell, but not of one over a packed sequence or with dropout."""
    if function in CELLS:
        return True
    if function not in STEPS:
        return False
    given = dict(zip(ARGUMENTS, args, strict=False)) | kwargs
    # Over packed sequences the sizes of the batches come before the states, which moves all arguments by one.
    packed = isinstance(given.get("params"), Tensor) or isinstance(given["num_layers"], bool)
    return not (packed or "batch_sizes" in given or _drops(given))


def _drops(given: dict[str, Any]) -> bool:
    return given["train"] and given["dropout"] > 0 and given["num_layers"] > 1


def composed(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The result of a call that `can_compose`, by calls of `torch.nn.functional.linear`."""
    if function in CELLS:
        return _cell(CELLS[function], *args, **kwargs)
    return _layers(STEPS[function], *args, **kwargs)


def _cell(
    step: Step,
    input: Tensor,
    hx: Any,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Any:
    state = (hx,) if isinstance(hx, Tensor) else tuple(hx)
    after = step(F.linear(input, w_ih, b_ih), F.linear(state[0], w_hh, b_hh), state)
    return after[0] if isinstance(hx, Tensor) else after


def _layers(
    step: Step,
    input: Tensor,
    hx: Any,
    params: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, ...]:
    """The outputs and the last states, as torch returns them."""
    first: State = (hx,) if isinstance(hx, Tensor) else tuple(hx)
    # Torch tells an LSTM with projections by its states of two sizes.
    projected = len(first) == 2 and first[0].shape[-1] != first[1].shape[-1]
    size, directions = 2 + 2 * has_biases + projected, 1 + bidirectional
    y = input.transpose(0, 1) if batch_first else input
    last: list[State] = []
    for layer in range(num_layers):
        ways = []
        for place in range(layer * directions, (layer + 1) * directions):
            own = list(params[place * size : (place + 1) * size])
            w_hr = own.pop() if projected else None
            start = tuple(value[place] for value in first)
            backwards = place % directions == 1
            outputs, end = _direction(step, y, start, own, w_hr, backwards)
            ways.append(outputs)
            last.append(end)
        y = torch.cat(ways, -1) if bidirectional else ways[0]
    ends = (torch.stack(values) for values in zip(*last, strict=True))
    return (y.transpose(0, 1) if batch_first else y), *ends


def _direction(
    step: Step,
    x: Tensor,
    state: State,
    weights: Sequence[Tensor],
    w_hr: Tensor | None,
    backwards: bool,
) -> tuple[Tensor, State]:
    """The states h [T, B, N] of a layer in one direction over x [T, B, F], and the last state."""
    w_ih, w_hh, *biases = weights
    b_ih, b_hh = biases or (None, None)
    by_input = F.linear(x, w_ih, b_ih).unbind(0)
    states: list[Tensor] = []
    for one in reversed(by_input) if backwards else by_input:
        h, *rest = step(one, F.linear(state[0], w_hh, b_hh), state)
        state = (h if w_hr is None else F.linear(h, w_hr), *rest)
        states.append(state[0])
    return torch.stack(states[::-1] if backwards else states), state


@contextmanager
def weights_as_registered(module: nn.Module) -> Iterator[None]:
    """Let the recurrent layers of a module read the weights that are substituted, and forget them on exit.

    They keep a list of their weights, which they make again when they see others. On a card they move the weights into
    one piece of memory as well, which substituted tensors do not allow.
    """
    parts = [part for part in module.modules() if isinstance(part, nn.RNNBase)]
    before = [dict(vars(part)) for part in parts]
    for part in parts:
        vars(part)["flatten_parameters"] = lambda: None
    try:
        yield
    finally:
        for part, held in zip(parts, before, strict=True):
            for name in ("_flat_weights", "_flat_weight_refs"):
                vars(part)[name] = held[name]
            if "flatten_parameters" in held:
                vars(part)["flatten_parameters"] = held["flatten_parameters"]
            else:
                del vars(part)["flatten_parameters"]
