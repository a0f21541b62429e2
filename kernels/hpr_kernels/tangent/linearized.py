"""The first-order Taylor expansion of a module in its parameters, as a module that trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from hpr_kernels import checks
from hpr_kernels.autocast import outside_autocast
from hpr_kernels.tangent import probe
from hpr_kernels.tangent.prepared import parameter_names
from hpr_kernels.tangent.uses import substituted

Weights = dict[str, Tensor]


@outside_autocast
def linearize(module: nn.Module, *, parameters: Sequence[str] | None = None) -> nn.Module:
    """The linearised network of a module, f_lin(x; θ) = f(x; θ0) + J(x; θ0) (θ - θ0) (Lee et al. 2019, Eq. 5).

    θ0 are the parameters that `module` has now, and J is the Jacobian by the parameters at θ0. The tangent kernel of
    f_lin is that of `module` (`ntk`) at every θ (Jacot et al. 2018). Any torch optimiser trains θ. f_lin is also
    differentiable by x.

    J (θ - θ0) is exact, by two reverse passes.

    Args:
        module: returns one tensor. It stays unchanged, and so do the random number generators. Modules that draw random
            numbers or change their buffers (dropout and batch normalisation in training mode) are refused, some of them
            at the first call of the result. Examples of a batch may depend on each other.
        parameters: names or patterns, as in `ntk`, of the parameters to expand in; None for all that require a
            gradient. The others stay at θ0.

    Returns:
        A module that takes x as `module` does. Its parameters have the names of the chosen parameters of `module` and
        begin at θ0. Tied weights stay tied, and only θ is in its `state_dict`. θ0, the buffers and the training mode
        are those of a private copy, which `to` moves as well. `train` and `eval` do not change the copy.

    Raises:
        ValueError, TypeError: naming the argument or the submodule that does not fit, or that holds NaN or infinity.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module: expected a torch.nn.Module, got {type(module).__name__}")
    names = parameter_names(module, parameters)
    for name, parameter in module.named_parameters():
        checks.finite(f"parameter {name}", parameter.detach())
    for name, part in module.named_modules():
        if probe.depends_on_more(part):
            raise ValueError(
                f"module: expected one whose outputs depend on x alone, got {type(part).__name__} "
                f"{name!r} in training mode; call module.eval()"
            )
    # Autograd could not use parameters that were made in inference mode.
    with probe.random_numbers_kept(), torch.inference_mode(False), torch.no_grad():
        return Linearized(probe.twin(module), names, module)


class Linearized(nn.Module):
    """f_lin of `linearize`.

    Args:
        frozen: the copy of the module, with θ0.
        names: the parameters to expand in.
        original: the module itself, which the copy must not read.
    """

    _frozen: nn.Module
    _original: nn.Module | None

    def __init__(self, frozen: nn.Module, names: Sequence[str], original: nn.Module) -> None:
        super().__init__()
        frozen.requires_grad_(False)
        held = dict(frozen.named_parameters())
        own = {id(held[name]): nn.Parameter(held[name].detach().clone()) for name in names}
        # A tied weight is in several places.
        for slot, parameter in frozen.named_parameters(remove_duplicate=False):
            if id(parameter) in own:
                _register(self, slot, own[id(parameter)])
        # As a submodule the copy would be in the state_dict and follow `train`.
        self.__dict__["_frozen"] = frozen
        # Until the first call, which checks.
        self.__dict__["_original"] = original
        self._names = list(names)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Linearized:
        super()._apply(fn, recurse)
        self._frozen._apply(fn, recurse)
        return self

    def extra_repr(self) -> str:
        """The expanded module's type, for `repr`."""
        return f"of {type(self._frozen).__name__}"

    @outside_autocast
    def forward(self, x: Tensor) -> Tensor:
        """f_lin(x; θ) at the present θ.

        Raises:
            ValueError, TypeError: the module fails on x, or can't be linearised.
        """
        if not isinstance(x, Tensor):
            raise TypeError(f"x: expected a torch.Tensor, got {type(x).__name__}")
        inference = torch.is_inference_mode_enabled()
        gradients = torch.is_grad_enabled() and not inference
        with torch.inference_mode(False), torch.set_grad_enabled(gradients):
            x = x.clone() if x.is_inference() else x
            if self._original is not None:
                with probe.random_numbers_kept(), torch.no_grad():
                    self._check(x.detach(), self._original)
                self.__dict__["_original"] = None
            y, change = self._expansion(x)
            return y + change

    def _start(self) -> Weights:
        held = dict(self._frozen.named_parameters())
        return {name: held[name].detach() for name in self._names}

    def _expansion(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """f(x; θ0) and J(x; θ0) (θ - θ0)."""
        call, start = substituted(self._frozen), self._start()
        change = {name: self.get_parameter(name) - value for name, value in start.items()}

        def outputs(weights: Weights) -> Tensor:
            return call(weights, x)

        # Of the implementations of attention only this one can be differentiated twice.
        with sdpa_kernel(SDPBackend.MATH):
            try:
                return _expanded(outputs, start, change)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                raise ValueError(
                    f"module: expected one that torch.func.vjp goes through twice, got {probe.told(error)}"
                ) from error

    def _check(self, x: Tensor, original: nn.Module) -> None:
        """Refuse a module that gives no tensor, draws random numbers, changes its buffers or reads tensors beside θ."""
        module, given = probe.twin(self._frozen), f"x of shape {list(x.shape)} and {x.dtype}"
        before, state = [buffer.clone() for buffer in module.buffers()], probe.random_state()
        try:
            with probe.Strangers(original) as strangers:
                y: Any = module(x.clone())
        except torch.OutOfMemoryError:
            raise
        # A module can fail in any way.
        except Exception as error:
            raise ValueError(
                f"module: expected one that takes {given}, got {probe.told(error)}"
            ) from error
        strangers.refuse()
        if not isinstance(y, Tensor):
            raise TypeError(
                f"module: expected a tensor as its result, got {type(y).__name__}; "
                "wrap it in a module that returns one of its parts"
            )
        if not probe.same(state, probe.random_state()):
            raise ValueError("module: expected no random numbers, got some drawn in a call")
        after = list(module.buffers())
        if len(before) != len(after) or not all(map(torch.equal, before, after)):
            raise ValueError(
                "module: expected one that keeps its state, got other buffers after a call; "
                "call module.eval()"
            )
        checks.finite("outputs of the module", y)
        # The substituted weights are the only finite ones now, so that any other read shows.
        module = probe.twin(self._frozen)
        held = dict(module.named_parameters())
        for name in self._names:
            held[name].fill_(float("nan"))
        if not bool(substituted(module)(self._start(), x.clone()).isfinite().all()):
            raise ValueError(
                "module: expected its parameters to be read where they are registered, "
                f"got one of {self._names[:3]} read elsewhere"
            )


def _register(root: nn.Module, slot: str, parameter: nn.Parameter) -> None:
    """Register a parameter under a dotted name, in empty modules for the parts of the name."""
    *path, name = slot.split(".")
    for key in path:
        if key not in root._modules:
            root.add_module(key, nn.Module())
        root = root.get_submodule(key)
    root.register_parameter(name, parameter)


def _expanded(
    outputs: Callable[[Weights], Tensor], start: Weights, change: Weights
) -> tuple[Tensor, Tensor]:
    """f(θ0) and J δ. Jᵀ u is linear in u, and its transpose by a second reverse pass is J.

    Forward mode costs less, but differentiates through `torch.no_grad` and by the padding row of an embedding, where
    training by reverse mode does not.
    """
    reverse: Any = torch.func.vjp(outputs, start)
    y, pull = reverse
    again: Any = torch.func.vjp(lambda u: pull(u)[0], torch.zeros_like(y))
    (forward,) = again[1](change)
    return y, forward
