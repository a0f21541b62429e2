"""Open NeuroGym environments, check their trials, and read the state that they keep between trials."""

from __future__ import annotations

import warnings
from types import ModuleType
from typing import Any

import numpy as np

from hpr.system.extras import install
from hpr.system.loading import named

from .own_class import own_class, split_name

NEUROGYM_VERSION = "2.3"

# The counters of TrialEnv itself, and its periods, which include those of earlier trials.
_BOOKKEEPING = {"num_tr", "start_t", "end_t", "start_ind", "end_ind", "_duration"}


def neurogym() -> ModuleType:
    """Return the module neurogym.

    Raises:
        ImportError: it is not installed, or its version has other behaviour.
    """
    remedy = install("repro")
    try:
        import neurogym as module
    except ImportError as error:
        raise ImportError(f"NeuroGym tasks need neurogym ({error}): {remedy}") from error
    if not module.__version__.startswith(f"{NEUROGYM_VERSION}."):
        raise ImportError(
            f"NeuroGym tasks need neurogym {NEUROGYM_VERSION}, got {module.__version__}: {remedy}"
        )
    return module


def open_environment(name: str, dt: float, **arguments: Any) -> Any:
    """Make a NeuroGym environment and remove Gymnasium's wrapper.

    Args:
        name: its NeuroGym id, or a class of the user's own; keyword arguments may follow in parentheses (`own_class`).
        dt: time step in ms.
        **arguments: further arguments of its constructor.

    Raises:
        ValueError: the id is unknown, or the environment does not classify vectors, with one class
            per time step.
        ImportError: NeuroGym is not installed.
    """
    ngym = neurogym()
    import gymnasium

    step = int(dt) if float(dt).is_integer() else dt
    base, given = split_name(name)
    cls = own_class(base)
    if cls is not None:
        fits = issubclass(cls, ngym.core.TrialEnv)
        _require(
            name, fits, f"is a {cls.__name__}, neither NeuroGym's TrialEnv nor a hpr.tasks.Task"
        )
    try:
        with warnings.catch_warnings():
            # Gymnasium warns, for instance, that NeuroGym environments have no rendering mode.
            warnings.filterwarnings("ignore", message=".*WARN: ")
            if cls is None:
                wrapped = ngym.make(base, dt=step, **given, **arguments)
            else:
                wrapped = cls(dt=step, **given, **arguments)
    # An environment can raise any exception.
    except (Exception, SystemExit) as error:
        raise ValueError(
            f"task: expected a task, a NeuroGym id or module:Class that can be made here with dt={step}, "
            f"got {name!r}: {named(error)}"
        ) from error
    if isinstance(wrapped, gymnasium.wrappers.OrderEnforcing):
        wrapped = wrapped.env
    bare = isinstance(wrapped, ngym.core.TrialEnv)
    _require(name, bare, f"is a {type(wrapped).__name__}, not a bare TrialEnv")
    # A constructor may have set neither.
    seen, action = (getattr(wrapped, f"{of}_space", None) for of in ("observation", "action"))
    _require(
        name,
        isinstance(seen, gymnasium.spaces.Box) and len(seen.shape) == 1,
        f"has the observation_space {seen}, not a Box of one axis",
    )
    _require(
        name,
        isinstance(action, gymnasium.spaces.Discrete) and action.start == 0,
        f"has the action_space {action}, not Discrete classes from 0 on",
    )
    return wrapped


def fault(inputs: np.ndarray, targets: np.ndarray, classes: int) -> str | None:
    """Say why a trial, inputs [T, N_in] and targets [T], is not a valid classification trial; None if it is."""
    if inputs.ndim != 2 or targets.shape != inputs.shape[:1]:
        return f"has trials with inputs {list(inputs.shape)} and targets {list(targets.shape)}"
    # Networks get float32 inputs, so a number that overflows in float32 is refused as well.
    if not (np.abs(inputs) <= np.finfo(np.float32).max).all():
        return "has inputs that are NaN, infinite or beyond float32"
    wrong = targets[~((targets >= 0) & (targets < classes) & (targets == np.floor(targets)))]
    if wrong.size:
        return f"has the target {wrong[0]:g}, which is none of its {classes} classes, 0 to {classes - 1}"
    return None


def state(environment: Any) -> dict[str, str]:
    """Return the attributes that an environment keeps between trials, as text that can be compared.

    TrialEnv's own bookkeeping and the random generators are left out.
    """
    plain = (bool, int, float, str, list, tuple, dict, np.ndarray, np.generic)
    return {
        name: repr(value)
        for name, value in vars(environment).items()
        if name not in _BOOKKEEPING and isinstance(value, plain)
    }


def _require(name: str, holds: bool, complaint: str) -> None:
    if not holds:
        raise ValueError(f"{name} cannot be a task: it {complaint}")
