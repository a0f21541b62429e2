"""The task compiler: it enumerates the conditions of a NeuroGym environment by running its code.

An environment makes a trial from discrete draws, which select the condition, and from Gaussian
noise. The compiler replaces the random generator by a `Script`, which answers the discrete draws
with every possible sequence in turn and the noise with chosen numbers. The environment's own code
then computes each condition's inputs, noise, targets and probability.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from .counter import random_words, uniform
from .environment import fault, state
from .script import MOST_CONDITIONS, NotEnumerable, Script

Periods = dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Bank:
    """The C conditions of a task.

    Attributes:
        inputs: float32 [C, T, N_in], without noise.
        noise: float32 [C, T, N_in], standard deviation of the independent Gaussian noise.
        targets: int64 [C, T].
        probability: float64 [C], the probability of each condition.
        periods: for each condition, the first step of every period and the step after its last.
    """

    inputs: np.ndarray  # [C, T, N_in]
    noise: np.ndarray  # [C, T, N_in]
    targets: np.ndarray  # [C, T]
    probability: np.ndarray  # [C]
    periods: tuple[Periods, ...]

    def equals(self, other: Bank) -> bool:
        """Whether two banks are equal in every part."""
        return all(
            np.array_equal(getattr(self, part.name), getattr(other, part.name))
            for part in fields(self)
        )

    def parts(self) -> list[object]:
        """Return all that the trials depend on, for a digest; six decimals are equal on all processors."""
        # Adding zero makes -0.0 the same as 0.0.
        arrays = [
            np.round(array.astype(np.float64), 6) + 0.0
            for array in (self.inputs, self.noise, self.probability)
        ]
        periods = [
            {name: tuple(map(int, ends)) for name, ends in of.items()} for of in self.periods
        ]
        return [*arrays, self.targets, periods]


def compile_environment(environment: Any) -> Bank:
    """Enumerate an environment's conditions.

    Args:
        environment: a NeuroGym TrialEnv that nothing else uses; its generators are replaced.

    Raises:
        NotEnumerable: the environment draws a continuous number that is not additive noise, trials
            differ in length or depend on earlier ones, or there are over 4,096 sequences of draws.
    """
    trials = list(_enumerate(environment))
    if len({len(trial.inputs) for trial in trials}) > 1:
        raise NotEnumerable("its trials differ in length")
    # In reverse order each trial follows other trials, which must make no difference.
    for trial in reversed(trials):
        again = _replay(environment, trial.path)
        if (
            again.state != trial.state
            or not again.happens_as(trial)
            or not np.array_equal(again.inputs, trial.inputs)
        ):
            raise NotEnumerable("its trials depend on earlier ones")
    return _merge(trials, [_deviation(environment, trial) for trial in trials])


@dataclass(frozen=True, eq=False)
class _Trial:
    """A replayed trial: its draws (see `Script`) and the result."""

    path: list[int]
    arities: list[int]
    probability: float
    normals: int  # how many Gaussian numbers were drawn
    inputs: np.ndarray  # float64 [T, N_in]
    targets: np.ndarray  # int64 [T]
    periods: Periods
    state: dict[str, str]  # of the environment after the trial

    def happens_as(self, other: _Trial) -> bool:
        """Whether two trials are equal except in inputs and state, which noise may change."""
        return (
            self.path == other.path
            and self.arities == other.arities
            and self.probability == other.probability
            and self.normals == other.normals
            and self.periods == other.periods
            and self.inputs.shape == other.inputs.shape
            and np.array_equal(self.targets, other.targets)
        )


def _enumerate(environment: Any) -> Iterator[_Trial]:
    """Yield the trial without noise of every sequence of draws, in lexicographic order."""
    path: list[int] = []
    for _ in range(MOST_CONDITIONS):
        trial = _replay(environment, path)
        yield trial
        open_draws = [d for d, arity in enumerate(trial.arities) if trial.path[d] + 1 < arity]
        if not open_draws:
            return
        deepest = open_draws[-1]
        path = [*trial.path[:deepest], trial.path[deepest] + 1]
    raise NotEnumerable(f"it has over {MOST_CONDITIONS} conditions")


def _replay(environment: Any, path: Sequence[int], noise: np.ndarray | None = None) -> _Trial:
    """Make a trial whose discrete draws follow `path` and whose Gaussian numbers are `noise`."""
    script = Script(path, noise)
    # A period's random length can have its own generator (NeuroGym's TruncExp).
    for owner in (environment, *environment.timing.values()):
        for name, value in getattr(owner, "__dict__", {}).items():
            if isinstance(value, np.random.RandomState | np.random.Generator | Script):
                setattr(owner, name, script)
    try:
        environment.new_trial()
        inputs, targets = np.array(environment.ob, float), np.array(environment.gt, float)
    except NotEnumerable:
        raise
    # An environment can raise any exception when a draw has an answer that it did not expect.
    except Exception as error:
        raise NotEnumerable(f"a scripted trial fails ({error})") from error
    wrong = fault(inputs, targets, int(environment.action_space.n))
    if wrong is not None:
        raise NotEnumerable(f"it {wrong}")
    return _Trial(
        script.path,
        script.arities,
        script.probability,
        script.normals,
        inputs,
        targets.astype(np.int64),
        {p: (first, environment.end_ind[p]) for p, first in environment.start_ind.items()},
        state(environment),
    )


def _deviation(environment: Any, trial: _Trial) -> np.ndarray:
    """Return the standard deviation, float32 [T, N_in], of a condition's noise.

    Each Gaussian number must only be scaled and added to one input, and each input may receive one
    number at most. A trial in which all numbers are 1 gives the deviations. A trial in which all
    numbers differ shows which number each input received. It also reveals a sum of numbers, a
    number that is used twice, or a nonlinearity.
    """
    if not trial.normals:
        return np.zeros_like(trial.inputs, np.float32)
    different = -1 - np.sort(uniform(random_words(trial.normals, 0, "noise")))
    # The differences below need float64 observations: in float32 they would have rounding errors.
    seen = environment.observation_space
    narrow, seen.dtype = seen.dtype, np.dtype(np.float64)
    quiet = _replay(environment, trial.path)
    ones = _replay(environment, trial.path, np.ones(trial.normals))
    mixed = _replay(environment, trial.path, different)
    seen.dtype = narrow
    if not all(replayed.happens_as(trial) for replayed in (quiet, ones, mixed)):
        raise NotEnumerable("its noise changes more than the inputs")
    deviation = ones.inputs - quiet.inputs
    noisy = deviation != 0
    arrived = (mixed.inputs - quiet.inputs)[noisy] / deviation[noisy]
    source = np.abs(arrived[:, None] - different).argmin(axis=1)
    if (
        np.any(mixed.inputs[~noisy] != quiet.inputs[~noisy])
        or np.any(np.abs(arrived - different[source]) > 1e-6)
        or len(np.unique(source)) < len(source)
    ):
        raise NotEnumerable("its noise is not independent and added")
    return np.abs(deviation).astype(np.float32)


def _merge(trials: Sequence[_Trial], deviations: Sequence[np.ndarray]) -> Bank:
    """Make the bank; indistinguishable conditions become one, with the sum of their probabilities."""
    first: dict[bytes, int] = {}
    probability = np.zeros(len(trials))
    for i, (trial, deviation) in enumerate(zip(trials, deviations, strict=True)):
        alike = trial.inputs.tobytes() + deviation.tobytes() + trial.targets.tobytes()
        same = first.setdefault(alike + repr(trial.periods).encode(), i)
        probability[same] += trial.probability
    kept = list(first.values())
    return Bank(
        np.stack([trials[i].inputs for i in kept]).astype(np.float32),
        np.stack([deviations[i] for i in kept]),
        np.stack([trials[i].targets for i in kept]),
        probability[kept],
        tuple(trials[i].periods for i in kept),
    )
