"""Measures of your own: functions of a network before and after training, whose values stand in its record."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpr.fields import shown

if TYPE_CHECKING:
    # A figure's module may register measures, and a listing of figures imports no torch.
    from torch import Tensor


@dataclass(frozen=True)
class State:
    """What a measure of your own sees of one network of N units, on its device; it must not be changed.

    `rates` are those of the last step in the m evaluation trials, or of the T steps of a frozen one. `kernel` is the
    tangent kernel of the first `RunSpec.kernel_trials` trials, with rows (b, t, k).
    """

    hidden: Tensor  # [N, N], or [N, N_in] of two layers
    readout: Tensor  # [N_out, N]
    rates: Tensor  # [m, N] or [T, N]
    kernel: Tensor  # [M, M]


Measure = Callable[[State, State], float]

OWN_MEASURES: dict[str, Measure] = {}


def register_measure(name: str) -> Callable[[Measure], Measure]:
    """Let every run that is measured in this process from now on have a measure of your own; a decorator.

    The function takes the network's state before and after training. A value that is not finite is flagged, and None
    in the record. An error fails the run. A run's key does not depend on the measures, so that a run which is
    in the store already keeps the record that it has.

    Raises:
        TypeError: what is registered is no function.
        ValueError: the name does not begin with `own_` or has other than lower-case letters, digits and underscores,
            or another function has it.
    """
    if not isinstance(name, str) or not re.fullmatch(r"own_[a-z0-9_]{1,56}", name):
        raise ValueError(
            f"name: expected own_ and lower-case letters, digits and underscores, got {shown(name)}"
        )

    def registered(measure: Measure) -> Measure:
        if not callable(measure):
            raise TypeError(f"measure {name}: expected a function, got {shown(measure)}")
        known = OWN_MEASURES.get(name)
        # The same function defined again, as a notebook's cell does, takes the place of the old one.
        if known is not None and _place(known) != _place(measure):
            raise ValueError(
                f"name: expected one function of its own, got {name!r} of {_place(known)}"
            )
        OWN_MEASURES[name] = measure
        return measure

    return registered


def _place(measure: Measure) -> str:
    return f"{measure.__module__}.{getattr(measure, '__qualname__', shown(measure))}"
