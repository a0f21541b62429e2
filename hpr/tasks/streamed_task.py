"""A task whose trials come from NeuroGym's own Dataset."""

from __future__ import annotations

import functools
import inspect
import json
from typing import Any

import numpy as np

from hpr.system.loading import named

from .base import Split, Task, Trials
from .content import digest
from .counter import random_words
from .environment import fault, neurogym, open_environment, state

_PROBE_TRIALS = 64
# The trials in the digest: number of seeds, steps per seed, and trials per step.
_CONTENT = (4, 8, 2)


class StreamedTask(Task):
    """A NeuroGym task whose conditions cannot be enumerated.

    Each training step seeds NeuroGym's Dataset anew, with a seed of this step. A trial of fewer than T time steps is
    followed by the next one, as in `neurogym.Dataset`; T is the length of the longest of 64 trials.

    `content` is a digest of 64 trials, of the source of the environment's classes below TrialEnv, and of those
    attributes of a new environment that JSON can represent. It changes with most changes of the environment, its
    arguments and timing. It misses a change in a function or a file outside those classes, or in NeuroGym's TrialEnv,
    unless one of these trials differs. An edited comment changes it, too: a run is then repeated needlessly, which is
    better than reusing a record of other trials.
    """

    dt: float

    def __init__(self, name: str, version: str, dt: float, reason: str) -> None:
        """Open the environment and check that a seed determines its trials.

        Args:
            name: the NeuroGym id.
            version: the NeuroGym version whose behaviour it has.
            dt: time step in ms.
            reason: why its conditions cannot be enumerated, for error messages.

        Raises:
            ValueError: its trials depend on more than a seed, or are not valid classification trials.
        """
        self.name, self.version, self.label = name, version, name
        self.dt = float(dt)
        environment = open_environment(name, dt)
        self.N_in = int(environment.observation_space.shape[0])
        self.N_out = int(environment.action_space.n)
        self._datasets = functools.lru_cache(maxsize=4)(self._new_dataset)
        try:
            self.T, self.one_length, wrong = _probe(environment)
            settled = wrong is not None or self._seed_settles_trials()
        # An environment can raise any exception.
        except Exception as error:
            raise ValueError(
                f"{name} cannot be a task: its trials fail ({named(error)})"
            ) from error
        if wrong is not None:
            raise ValueError(f"{name} cannot be a task: it {wrong}")
        if not settled:
            raise ValueError(
                f"{name} cannot be a task: {reason}, and a seed does not settle its trials"
            )
        self.content = self._digest(environment)

    def _draw(self, seed: int, start: int, count: int, batch: int, split: Split) -> Trials:
        inputs = np.empty((count, self.T, batch, self.N_in), np.float32)
        targets = np.empty((count, self.T, batch), np.int64)
        dataset = self._datasets(batch)
        for k, step in enumerate(range(start, start + count)):
            key = (self.name, self.version, self.dt, seed, split, batch)
            word = int(random_words(1, step, *key)[0])
            # Dataset seeds environment b with seed + b, which must be below 2^32.
            dataset.seed(word % (2**32 // batch) * batch)
            inputs[k], targets[k] = dataset()
        return Trials(inputs, targets)

    def _new_dataset(self, batch: int) -> Any:
        # With cache_len=0 Dataset draws new trials at each call and keeps none from before the seeding.
        dataset = neurogym().Dataset(
            open_environment(self.name, self.dt), batch_size=batch, seq_len=self.T, cache_len=0
        )
        # The copies that Dataset makes can draw periods from the original's generator, which is never seeded.
        dataset.envs = [open_environment(self.name, self.dt) for _ in range(batch)]
        return dataset

    def _seed_settles_trials(self) -> bool:
        """Whether a draw repeats after other draws, and in new environments."""
        first = self._draw(0, 0, 1, 2, "train")
        kept = [state(environment) for environment in self._datasets(2).envs]
        self._draw(0, 1, 4, 2, "train")
        again = self._draw(0, 0, 1, 2, "train")
        settled = kept == [state(environment) for environment in self._datasets(2).envs]
        self._datasets.cache_clear()
        anew = self._draw(0, 0, 1, 2, "train")
        return settled and all(
            np.array_equal(first.inputs, other.inputs)
            and np.array_equal(first.targets, other.targets)
            for other in (again, anew)
        )

    def _digest(self, environment: Any) -> str:
        seeds, steps, batch = _CONTENT
        trials = [self._draw(seed, 0, steps, batch, "train") for seed in range(seeds)]
        arrays = [array for drawn in trials for array in (drawn.inputs, drawn.targets)]
        # Attributes that differ between two equally made environments do not belong to the task.
        one, other = (_held_values(open_environment(self.name, self.dt)) for _ in range(2))
        held = sorted(one.items() & other.items())
        return digest(self.N_out, *arrays, _sources(environment), held)


_ARRAYS = (
    ("ob", "observations", "add_ob or view_ob"),
    ("gt", "ground truth", "set_groundtruth"),
)


def _probe(environment: Any) -> tuple[int, bool, str | None]:
    """The length of the longest of 64 trials, whether all have it, and the first invalid trial's fault or None."""
    environment.seed(0)
    lengths: set[int] = set()
    for _ in range(_PROBE_TRIALS):
        environment.new_trial()
        # TrialEnv makes both arrays when they are first written.
        for array, what, method in _ARRAYS:
            if not hasattr(environment, array):
                return 0, True, f"has no {what}; _new_trial has to call {method}"
        inputs, targets = np.array(environment.ob, float), np.array(environment.gt, float)
        wrong = fault(inputs, targets, int(environment.action_space.n))
        if wrong is not None:
            return 0, True, wrong
        lengths.add(len(inputs))
    return max(lengths), len(lengths) == 1, None


def _sources(environment: Any) -> list[str]:
    """Return the sources of an environment's classes up to TrialEnv; the class's name if a source is not available."""
    found = []
    for cls in type(environment).__mro__:
        if cls is neurogym().core.TrialEnv:
            break
        try:
            found.append(inspect.getsource(cls))
        except (OSError, TypeError):
            found.append(cls.__qualname__)
    return found


def _held_values(environment: Any) -> dict[str, str]:
    """Return the attributes that JSON can represent, as text. `repr` would show the memory addresses of the others."""
    found = {}
    for name in state(environment):
        value = vars(environment)[name]
        try:
            found[name] = json.dumps(value, sort_keys=True, default=_array_as_list)
        except (TypeError, ValueError):
            continue
    return found


def _array_as_list(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError
