"""The uses of a module's parameters, found while the module runs, whatever classes it is made of.

Linear layers, convolutions and embeddings multiply a weight W into an input at S positions: y_s = W z_s + b. Where y_s
has the adjoint g_s, the gradient is Σ_s g_s ⊗ z_s by W and Σ_s g_s by b. A zero is added to every such y, the "tap",
and the adjoint is the gradient by the tap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from hpr_kernels.tangent.patches import Convolution
from hpr_kernels.tangent.recorded_calls import CALLS, Call, Scale, Settings, affine, form, kind
from hpr_kernels.tangent.recurrent_layers import can_compose, composed, weights_as_registered
from hpr_kernels.tangent.views import VIEWS, Rows, rows_of, tensors_of

OTHER_CALLS = "other calls of linear layers than in the first run of an example"


class Use(NamedTuple):
    """A call by one example: the names of its parameters that are kept as factors, and the sizes of its tensors.

    Where the call takes only some rows of a parameter, `weight_rows` and `bias_rows` have the first row and the end.
    """

    settings: Settings
    weight: str | None
    bias: str | None
    units: int
    input_shape: torch.Size
    shape: torch.Size
    dtype: torch.dtype
    weight_rows: Rows | None = None
    bias_rows: Rows | None = None

    @property
    def first_row(self) -> int:
        """The row of the weight that the first unit has."""
        return 0 if self.weight_rows is None else self.weight_rows[0]


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
        # By its id each view of a parameter, which is held so that no other tensor gets the id, and the parameter.
        self.views: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:  # fmt: skip
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            with self:
                return _ATTENTION(*args, **kwargs)
        if can_compose(func, args, kwargs):
            with self:
                return composed(func, args, kwargs)
        if func in VIEWS:
            return self._viewed(func, args, kwargs)
        call = CALLS[func](*args, **kwargs) if func in CALLS else None
        return func(*args, **kwargs) if call is None else self._recorded(call, func, args, kwargs)

    def _viewed(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result of a function of `VIEWS`, remembered if it is a view of a parameter to record."""
        result = func(*args, **kwargs)
        whole = args[0] if args else None
        _, root = self.views.get(id(whole), (None, whole if id(whole) in self.names else None))
        # Gradients do not go through a view that is made without them.
        if root is not None and torch.is_grad_enabled():
            self.views |= {id(view): (view, root) for view in tensors_of(result)}
        return result

    def _name(self, value: Tensor | None, settings: Settings) -> tuple[str | None, Rows | None]:
        """The parameter to record that an argument is, and which rows of it, None for all; (None, None) for others."""
        if id(value) in self.names:
            return self.names[id(value)], None
        # The rows are units in these operations only.
        plain = isinstance(settings, Convolution) and settings.groups == 1
        if id(value) not in self.views or not plain or form(settings)[-1]:
            return None, None
        view, root = self.views[id(value)]
        rows = rows_of(view, root)
        name = None if rows is None else self.names[id(root)]
        return name, None if rows == (0, len(root)) else rows

    def _recorded(
        self, call: Call, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Tensor:
        """The result of a call with a tap, if it has a parameter to record."""
        weight, weight_rows = self._name(call.weight, call.settings)
        bias, bias_rows = self._name(call.bias, call.settings)
        norm = isinstance(call.settings, Scale)
        if call.bias is not None and call.bias.shape != (call.units,) and not norm:
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
        z, y = _evaluated(call, func, args, kwargs, constant)
        if y.numel() == 0:
            return y
        use = Use(
            call.settings, weight, bias, call.units, z.shape, y.shape, y.dtype, weight_rows, bias_rows
        )  # fmt: skip
        tap = self._tap(y)
        self.uses.append(use)
        self.inputs.append(z)
        return y + tap

    def _inside_transform(self, call: Call) -> bool:
        """Whether the module called torch.func itself, whose tensors must not leave its transform.

        In a run with given taps, all tensors belong to the transforms of `ntk`.
        """
        return self.taps is None and any(
            torch._C._functorch.is_functorch_wrapped_tensor(value)
            for value in (call.input, call.weight, call.bias)
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


def _evaluated(
    call: Call,
    func: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    instead: dict[int, Tensor],
) -> tuple[Tensor, Tensor]:
    """The input of the weight and the result of a call, where `instead` replaces arguments, by their ids."""
    if isinstance(call.settings, Scale) and call.normalised is not None:
        z = call.normalised()
        weight = instead.get(id(call.weight), call.weight)
        bias = instead.get(id(call.bias), call.bias)
        return z, affine(z, weight, bias, call.settings.axes)
    given = (instead.get(id(value), value) for value in args)
    named = {key: instead.get(id(value), value) for key, value in kwargs.items()}
    return call.input, func(*given, **named)


Substituted = Callable[[dict[str, Tensor], Tensor], Tensor]


def substituted(module: nn.Module) -> Substituted:
    """The module as a function of some of its parameters, by name, and of a batch."""
    # Every place that holds a parameter; tied weights have several. Torch's own handling of ties is not used, because
    # it leaves the traced tensors in a module that is registered under two names.
    slots = {
        f"{prefix}.{name}" if prefix else name: parameter
        for prefix, part in module.named_modules()
        for name, parameter in part.named_parameters(recurse=False, remove_duplicate=False)
    }
    canonical = {id(parameter): name for name, parameter in module.named_parameters()}

    def call(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        held = {
            slot: weights.get(canonical[id(parameter)], parameter.detach())
            for slot, parameter in slots.items()
        }
        with weights_as_registered(module):
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


def kinds(records: Sequence[Record]) -> dict[str, str]:
    """The kind of each parameter whose every use is recorded, in one way: as a bias, or as a weight of one form."""
    ways: dict[str, dict[Any, str]] = {}
    for use in (use for one in records for use in one.uses):
        if use.weight is not None:
            ways.setdefault(use.weight, {})[form(use.settings)] = kind(use.settings)
        if use.bias is not None:
            ways.setdefault(use.bias, {})["bias"] = "bias"
    other = set().union(*(one.other for one in records))
    return {
        name: next(iter(found.values()))
        for name, found in ways.items()
        if len(found) == 1 and name not in other
    }


def segments(records: Sequence[Record]) -> dict[str, list[Rows]]:
    """Of each weight of which a call took some rows, parts of its rows, so that every call took whole parts."""
    found = [use for one in records for use in one.uses]
    in_parts = {use.weight for use in found if use.weight_rows is not None}
    bounds: dict[str, set[int]] = {}
    for use in found:
        if use.weight is not None and use.weight in in_parts:
            ends = use.first_row, use.first_row + use.units
            bounds.setdefault(use.weight, set()).update(ends)
    return {name: list(pairwise(sorted(cuts))) for name, cuts in bounds.items()}
