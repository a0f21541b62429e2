"""What a run is: everything that its result depends on, and the key that follows from it."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal, get_args

from hpr import connectivity
from hpr.connectivity import Connectivity
from hpr.experiment.combinations import check_combination
from hpr.fields import check_integer, check_positive, normalise, shown

Leak = Literal["exponential", "euler"]
Parameter = Literal["recurrent", "input", "readout"]
Model = Literal["leaky_rnn", "two_layer"]
Activation = Literal["relu", "tanh", "linear"]
Cell = Literal["leaky", "gru"]
Optimizer = Literal["sgd", "adam"]
Aligned = Literal["directions", "dominant directions", "features", "dominant features"]

VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {"leak": "exponential", "ntk_parameters": ("recurrent", "input", "readout")},
    "released": {"leak": "euler", "ntk_parameters": ("recurrent",)},
}
# By variant, the gain of a structure whose `gain` is None.
GAIN = {"paper": connectivity.GAIN, "released": 1.25}
# The default, None, of the fields that `variant` fills in. Its type Any lets the fields keep their declared types.
_OF_VARIANT: Any = None
# Fields that were added after the first keys. At their defaults they are left out of a run's plain form, so that older
# runs keep their keys.
YOUNGER = (
    "model", "activation", "readout_deviation", "aligned", "teacher", "checkpoints", "keep_weights",
    "content", "drawn", "cell", "bias", "noise", "optimizer", "weight_decay", "trained",
)  # fmt: skip

# The least value of each count, and the greatest of all counts: it exceeds what any machine can take.
WHOLE = {"N": 1, "batch": 1, "iterations": 1, "trials": 1, "kernel_trials": 1, "checkpoints": 0}
MOST = 10**9


@dataclass(frozen=True)
class RunSpec:
    """Everything that a run's result depends on, and nothing else.

    One network, its initial weights (`connectivity`, `seed`), its task, its training and its measures. Times are in ms,
    `iterations` in SGD steps. The defaults are the paper's (Appendix C.2).

    `variant` is "paper" or "released" (the authors' script). `leak` and `ntk_parameters` follow from it, and so does
    the gain of a `connectivity` that names none. A leak or parameters that contradict the variant are refused.

    A `two_layer` network is y = W_2 f(W_1 x), for tasks of one step. W_1 takes the place of the recurrent weights of a
    leaky RNN: `connectivity` draws W_1 with the number of inputs as its fan-in, the weight change norm is that of W_1,
    and in `ntk_parameters` and `trained` "recurrent" means W_1 and "input" means nothing.

    The update of the "leaky" cell with biases b and noise, where ξ_t is standard normal, independent at every step,
    trial and unit, and drawn anew in every SGD step (the measures are taken without noise):

        h_{t+1} = rho h_t + (1 - rho) (W_h f(h_t) + W_x x_t + b) + √(2 dt/tau) noise ξ_t

    This is the noise of PsychRNN and of Song et al. (2016): without input and weights, the standard deviation of h
    tends to `noise` where dt is far below tau.

    The "gru" cell has the equations of `torch.nn.GRU`, plus the same noise term, in which alone tau counts.
    `connectivity` draws the recurrent matrix of its candidate state, W_hn. All its other matrices begin uniform within
    ±1/√fan_in, and all biases of either cell at zero. Its weight change norm is that of the three recurrent matrices
    stacked, [3N, N], and its representation is the state.

    A bias is the weight of an input that is always 1. So the biases belong to the group "input" of `trained` and of
    `ntk_parameters`, both biases of a GRU too.
    """

    # "2AF", "DMS", "CXT", "sMNIST" or another name that `hpr.tasks.make_task` takes.
    task: str
    # The structure of the initial recurrent weights.
    connectivity: Connectivity
    # Determines the initial weights and the trials.
    seed: int
    # "paper" or "released", the authors' script; it sets `leak`, `ntk_parameters` and a gain that is not given.
    variant: str = "paper"
    # The version of NeuroGym whose behaviour the task has, "0.0.2" or "2.3"; "1" for tasks that are not NeuroGym's.
    task_version: str = "0.0.2"
    # Time step in ms.
    dt: float = 100.0
    # Time constant of the units in ms.
    tau: float = 100.0
    # The leak factor of a step: exp(-dt/tau), or 1 - dt/tau by Euler. The variant sets it.
    leak: Leak = _OF_VARIANT
    # Number of recurrent units.
    N: int = 300
    # Trials per SGD step.
    batch: int = 32
    # SGD steps.
    iterations: int = 10_000
    # Step size of SGD.
    learning_rate: float = 3e-3
    # Momentum of SGD, or Adam's decay rate of the mean gradient (beta 1), in [0, 1).
    momentum: float = 0.9
    # Training ends at this mean accuracy over a window of 100 iterations (`hpr.training.trials.WINDOW`); None: never.
    stop_accuracy: float | None = None
    # The weights that the tangent kernel is of. The variant sets them.
    ntk_parameters: tuple[Parameter, ...] = _OF_VARIANT
    # Evaluation trials of the representation and sign measures; the kernel takes the first `kernel_trials` of them.
    trials: int = 320
    # Evaluation trials of the tangent kernel.
    kernel_trials: int = 32
    # "leaky_rnn", or "two_layer" for tasks of one step.
    model: Model = "leaky_rnn"
    # The activation function of the units.
    activation: Activation = "relu"
    # The recurrent cell: "leaky", or "gru", which has its own activation functions.
    cell: Cell = "leaky"
    # Whether the units have biases, which begin at zero.
    bias: bool = False
    # Standard deviation of Gaussian noise in the state during training, scaled per step by √(2 dt/tau).
    noise: float = 0.0
    # What takes the steps: "sgd" with momentum, or "adam" with torch's defaults beta 2 = 0.999 and epsilon = 1e-8.
    optimizer: Optimizer = "sgd"
    # Factor of the trained weights that is added to their gradient, as in `torch.optim` (an L2 penalty).
    weight_decay: float = 0.0
    # The weights that are trained; the others keep their initial values. ("readout",) is a reservoir.
    trained: tuple[Parameter, ...] = ("recurrent", "input", "readout")
    # Standard deviation of Gaussian readout weights; None: uniform within ±1/√N.
    readout_deviation: float | None = None
    # Hidden weights aligned with a teacher (Figure 3), at the norm of those that `connectivity` draws: with the
    # teacher's directions w F (Proposition 1) or its features F, where F is whole or its dominant half. The teacher is
    # the task's own, or the trained run `teacher`.
    aligned: Aligned | None = None
    # The run whose trained weights `aligned` refers to; the student takes its input weights in any case.
    teacher: RunSpec | None = None
    # Points of the trajectory after its start, evenly spaced in log iterations; 0 records no trajectory.
    checkpoints: int = 0
    # Whether the record holds the trained weights. A teacher's must.
    keep_weights: bool = False
    # Hash of what the task depends on besides its name, version and dt: `bind` fills it in. None: nothing.
    content: str | None = None
    # Hash of the initial recurrent weights where `connectivity` is a structure of the user's own: `bind` fills it in.
    drawn: str | None = None

    def __post_init__(self) -> None:
        self._follow_variant()
        normalise(self)
        for name, least in WHOLE.items():
            check_integer(name, getattr(self, name), least, MOST)
        check_integer("seed", self.seed, 0, 2**63 - 1)
        connectivity.check_form(self.connectivity)
        self.connectivity.check(self.N)
        check_positive(self, "dt", "tau", "learning_rate")
        if self.readout_deviation is not None:
            check_positive(self, "readout_deviation")
        check_combination(self)
        # One order, so that equal runs have one key.
        trained = tuple(name for name in get_args(Parameter) if name in self.trained)
        object.__setattr__(self, "trained", trained)
        if not self.dt <= self.tau:
            raise ValueError(f"dt: expected 0 < dt <= tau = {self.tau} ms, got {self.dt!r}")
        if not self.rho < 1:
            raise ValueError(
                f"dt: expected a step in which something leaks at tau = {self.tau} ms, got {self.dt!r}"
            )
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum: expected 0 <= momentum < 1, got {self.momentum!r}")
        if self.stop_accuracy is not None and not 0 < self.stop_accuracy <= 1:
            raise ValueError(
                f"stop_accuracy: expected a share in (0, 1], got {self.stop_accuracy!r}"
            )
        for name, value in VARIANTS[self.variant].items():
            # Variants are never mixed: a field that the variant sets has that value.
            if getattr(self, name) != value:
                raise ValueError(
                    f"{name}: expected {value!r} in the variant {self.variant!r}, "
                    f"got {getattr(self, name)!r}"
                )
        if self.kernel_trials > self.trials:
            raise ValueError(
                f"kernel_trials: expected at most trials = {self.trials}, got {self.kernel_trials}"
            )
        if self.model == "two_layer" and type(self.connectivity) not in (
            connectivity.Dense,
            connectivity.LowRank,
        ):
            raise ValueError(
                f"connectivity: expected a dense or low-rank one of two layers, got {self.connectivity}"
            )
        for name in ("content", "drawn"):
            digest = getattr(self, name)
            if digest is not None and not re.fullmatch("[0-9a-f]{16}", digest):
                raise ValueError(f"{name}: expected None or 16 hexadecimal digits, got {digest!r}")
        if self.teacher is not None:
            student, teacher = (
                (of.task, of.task_version, of.content, of.dt, of.N, of.model)
                for of in (self, self.teacher)
            )
            if teacher != student or not self.teacher.keep_weights or self.model != "leaky_rnn":
                raise ValueError(
                    f"teacher: expected a leaky RNN of {student} that keeps its weights, got {self.teacher}"
                )

    def _follow_variant(self) -> None:
        """Fill in what the variant sets."""
        if not isinstance(self.variant, str) or self.variant not in VARIANTS:
            raise ValueError(
                f"variant: expected one of {sorted(VARIANTS)}, got {shown(self.variant)}"
            )
        for name, value in VARIANTS[self.variant].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        if isinstance(self.connectivity, Connectivity) and self.connectivity.gain is None:
            structure = replace(self.connectivity, gain=GAIN[self.variant])
            object.__setattr__(self, "connectivity", structure)

    def __getstate__(self) -> dict[str, Any]:
        """The fields without a cached key or hash, which another version or process may compute differently."""
        return {name: getattr(self, name) for name in _FORM}

    def __hash__(self) -> int:
        # Runs are looked up many times, and a hash takes all fields.
        found: int | None = self.__dict__.get("_hash")
        if found is None:
            found = hash(tuple([getattr(self, name) for name in _FORM]))
            object.__setattr__(self, "_hash", found)
        return found

    @property
    def rho(self) -> float:
        """Leak factor of Eq. 1: exp(-dt/tau), or 1 - dt/tau for the Euler step of the released script."""
        ratio = self.dt / self.tau
        return math.exp(-ratio) if self.leak == "exponential" else 1.0 - ratio

    def to_dict(self) -> dict[str, Any]:
        """The run as plain JSON values, as its record keeps it."""
        values = self.__dict__
        plain = {name: values[name] for name, default in _FORM.items() if values[name] != default}
        plain["connectivity"] = connectivity.to_dict(self.connectivity)
        for name in ("ntk_parameters", "trained"):
            if name in plain:
                plain[name] = list(plain[name])
        if self.teacher is not None:
            plain["teacher"] = self.teacher.to_dict()
        return plain

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> RunSpec:
        """Invert `to_dict`.

        Raises:
            UnknownKind: the kind of the connectivity is not registered here.
            ValueError: one line, where `plain` is not the plain form of a run.
        """
        if not isinstance(plain, dict):
            raise ValueError(f"run specification: expected its fields, got {shown(plain)}")
        if not _ALWAYS <= plain.keys() <= _FORM.keys():
            raise ValueError(
                f"run specification: expected the fields {sorted(_FORM)}, "
                f"got {shown(sorted(map(str, plain)))}"
            )
        given = {**plain, "connectivity": connectivity.from_dict(plain["connectivity"])}
        if given.get("teacher") is not None:
            given["teacher"] = cls.from_dict(given["teacher"])
        return cls(**given)

    @cached_property
    def key(self) -> str:
        """A hash of the plain form's canonical JSON, 16 hexadecimal digits. It names the run's file."""
        return key_of(self.to_dict())

    @property
    def shape(self) -> RunSpec:
        """The run without its initial weights and its seed. Runs of equal shape can be trained in one pack."""
        # `replace` would check every field again, in ten times the time.
        shape = object.__new__(RunSpec)
        shape.__dict__.update(self.__getstate__())
        shape.__dict__.update(
            connectivity=_NULLS[self.variant], seed=0, aligned=None, teacher=None, drawn=None
        )
        return shape

    def at_seed(self, seed: int) -> RunSpec:
        """The run with another seed, whose other fields are not checked again."""
        check_integer("seed", seed, 0, 2**63 - 1)
        other = object.__new__(RunSpec)
        other.__dict__.update(self.__getstate__(), seed=seed)
        return other

    @property
    def label(self) -> str:
        """A short name of the run's kind of initial weights."""
        return self.aligned or self.connectivity.label

    def __str__(self) -> str:
        return f"{self.task} N={self.N} {self.label} seed={self.seed} ({self.key})"


# The fields in their order, with the values at which the plain form leaves them out, and those that it always has. No
# value equals a new object.
_FORM: dict[str, Any] = {
    field.name: field.default if field.name in YOUNGER else object() for field in fields(RunSpec)
}
_ALWAYS = _FORM.keys() - set(YOUNGER)
# The initial weights of a shape, with the gain that `replace` would fill in.
_NULLS = {variant: connectivity.Dense(gain=gain) for variant, gain in GAIN.items()}


def key_of(plain: dict[str, Any]) -> str:
    """The key of a run by its plain form (`RunSpec.to_dict`)."""
    return hashlib.sha256(canonical_json(plain).encode()).hexdigest()[:16]


def canonical_json(plain: Any) -> str:
    """The one JSON of plain values that keys and checksums are hashes of.

    Raises:
        ValueError: a number is NaN or infinite.
    """
    return _ENCODER.encode(plain)


# `json.dumps` would make an encoder at each call.
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def distinct(specs: Iterable[RunSpec]) -> list[RunSpec]:
    """Each run once, in the order of its first appearance, so that runs that two figures share are trained once."""
    return list(dict.fromkeys(specs))
