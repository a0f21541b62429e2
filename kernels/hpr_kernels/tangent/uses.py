"""The uses of a module's parameters, found while the module runs, whatever classes it is made of.

Linear layers, convolutions and embeddings multiply a weight W into an input at S positions: y_s = W z_s + b. Where y_s
has the adjoint g_s, the gradient is Σ_s g_s ⊗ z_s by W and Σ_s g_s by b. A zero is added to every such y, the "tap",
and the adjoint is the gradient by the tap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from hpr_kernels.tangent.patches import Convolution, Lookup, convolution, transposed_convolution

LINEAR = Convolution()
FLOATING = (torch.float32, torch.float64)
OTHER_CALLS = "other calls of linear layers than in the first run of an example"


class Call(NamedTuple):
    """The arguments of a call that multiplies a weight into an input."""

    settings: Convolution | Lookup
    input: Tensor
    weight: Tensor
    bias: Tensor | None
    units: int


class Use(NamedTuple):
    """A call by one example: the names of its parameters that are kept as factors, and the sizes of its tensors."""

    settings: Convolution | Lookup
    weight: str | None
    bias: str | None
    units: int
    input_shape: torch.Size
    shape: torch.Size
    dtype: torch.dtype


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


CALLS: dict[Callable[..., Tensor], Callable[..., Call | None]] = {
    F.linear: _linear,
    F.conv1d: _convolution,
    F.conv2d: _convolution,
    F.conv3d: _convolution,
    F.conv_transpose1d: _transposed,
    F.conv_transpose2d: _transposed,
    F.conv_transpose3d: _transposed,
    F.embedding: _embedding,
}


def _opened(function: Any) -> FunctionType:
    """A copy of a function of torch.nn.functional that runs under a mode instead of handing itself to the mode."""
    never = dict.fromkeys(("has_torch_function", "has_torch_function_variadic"), lambda *_: False)
    copy = FunctionType(
        function.__code__, {**function.__globals__, **never}, function.__name__, function.__defaults__
    )  # fmt: skip
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


_ATTENTION = _opened(F.multi_head_attention_forward)


class Recorder(TorchFunctionMode):
    """While active, records the uses of the parameters in `names` (by the tensor's id) and adds a tap to each result.

    The call itself takes the parameters as constants, so that their only gradients are those by taps, and those of uses
    that are not recorded.

    Args:
        names: the parameters to record.
        taps: a tap for each use, in the order of the calls; None to make them.
    """

    def __init__(self, names: dict[int, str], taps: Sequence[Tensor] | None = None) -> None:
        super().__init__()
        self.names, self.taps = names, taps
        self.uses: list[Use] = []
        self.inputs: list[Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:  # fmt: skip
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            with self:
                return _ATTENTION(*args, **kwargs)
        call = CALLS[func](*args, **kwargs) if func in CALLS else None
        if call is None:
            return func(*args, **kwargs)
        weight, bias = self.names.get(id(call.weight)), self.names.get(id(call.bias))
        if call.bias is not None and call.bias.shape != (call.units,):
            bias = None
        # A weight that is its own input has gradients as an input too.
        own = call.input is call.weight or call.input is call.bias
        if (weight is None and bias is None) or own or self._inside_transform(call):
            return func(*args, **kwargs)
        constant = {
            id(value): value.detach()
            for value, name in ((call.weight, weight), (call.bias, bias))
            if value is not None and name is not None
        }
        y = func(
            *(constant.get(id(value), value) for value in args),
            **{key: constant.get(id(value), value) for key, value in kwargs.items()},
        )
        if y.numel() == 0:
            return y
        use = Use(call.settings, weight, bias, call.units, call.input.shape, y.shape, y.dtype)
        tap = self._tap(y)
        self.uses.append(use)
        self.inputs.append(call.input)
        return y + tap

    def _inside_transform(self, call: Call) -> bool:
        """Whether the module called torch.func itself, whose tensors must not leave its transform.

        In a run with given taps, all tensors belong to the transforms of `ntk`.
        """
        return self.taps is None and any(
            torch._C._functorch.is_functorch_wrapped_tensor(value)
            for value in (call.input, call.bias)
            if value is not None
        )

    def check_complete(self) -> None:
        """Raise a RuntimeError if a tap was not used."""
        if self.taps is not None and len(self.uses) < len(self.taps):
            raise RuntimeError(OTHER_CALLS)

    def _tap(self, y: Tensor) -> Tensor:
        if self.taps is None:
            return torch.zeros_like(y, requires_grad=True)
        count = len(self.uses)
        if count == len(self.taps) or self.taps[count].shape != y.shape:
            raise RuntimeError(OTHER_CALLS)
        return self.taps[count]


Substituted = Callable[[dict[str, Tensor], Tensor], Tensor]


def substituted(module: nn.Module) -> Substituted:
    """The module as a function of some of its parameters, by name, and of a batch."""
    # Every place that holds a parameter; tied weights have several. Torch's own handling of ties is not used, because
    # it leaves the traced tensors in a module that is registered under two names.
    slots = {
        f"{prefix}.{name}" if prefix else name: parameter
        for prefix, part in module.named_modules()
        for name, parameter in part.named_parameters(recurse=False)
    }
    canonical = {id(parameter): name for name, parameter in module.named_parameters()}

    def call(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        held = {
            slot: weights.get(canonical[id(parameter)], parameter.detach())
            for slot, parameter in slots.items()
        }
        return torch.func.functional_call(module, held, (x,), tie_weights=False)

    return call


class Record(NamedTuple):
    """The uses by one example, the names of parameters that are used in other ways too, and its outputs."""

    uses: list[Use]
    other: set[str]
    outputs: int
    dtype: torch.dtype


def record(call: Substituted, weights: dict[str, Tensor], x: Tensor) -> Record:
    """Run one example [1, …].

    A parameter is used in other ways if autograd has a path from the outputs to it beside the recorded uses, in which
    it is a constant.
    """
    held = {name: value.detach().requires_grad_() for name, value in weights.items()}
    recorder = Recorder({id(value): name for name, value in held.items()})
    with torch.enable_grad():
        with recorder:
            y = call(held, x)
        found: Sequence[Tensor | None] = [None] * len(held)
        if y.requires_grad:
            found = torch.autograd.grad(
                y, list(held.values()), torch.ones_like(y), allow_unused=True
            )
    other = {name for name, value in zip(held, found, strict=True) if value is not None}
    return Record(recorder.uses, other, y.numel(), y.dtype)


def _kind(settings: Convolution | Lookup) -> tuple[Any, ...]:
    """What uses of one weight must have in common, so that their outer products are of one form."""
    if isinstance(settings, Convolution):
        return len(settings.kernel), settings.groups, settings.transposed
    return (Lookup,)


def factored(records: Sequence[Record]) -> set[str]:
    """The parameters whose every use is recorded, in one way: as a bias, or as the weight of one kind of operation."""
    ways: dict[str, set[Any]] = {}
    for use in (use for one in records for use in one.uses):
        if use.weight is not None:
            ways.setdefault(use.weight, set()).add(_kind(use.settings))
        if use.bias is not None:
            ways.setdefault(use.bias, set()).add("bias")
    single = {name for name, found in ways.items() if len(found) == 1}
    return single.difference(*(one.other for one in records))


def uses(module: nn.Module, x: Tensor) -> dict[str, str]:
    """For each parameter "factored" if `ntk` of inputs like x [B, …] keeps its gradients as factors, else "direct"."""
    weights = {name: value.detach() for name, value in module.named_parameters()}
    kept = factored([record(substituted(module), weights, x[:1])])
    return {name: "factored" if name in kept else "direct" for name in weights}
