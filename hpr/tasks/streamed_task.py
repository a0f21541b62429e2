"""A streamed task: trials through NeuroGym's own Dataset."""

from __future__ import annotations

import functools
import inspect
import json
from typing import Any

import numpy as np

from .base import Split, Task, Trials
from .content import digest
from .counter import random_words
from .environment import fault, neurogym, open_environment, state

_PROBE_TRIALS = 64
# Those of the content: seeds, steps of each, and trials a step.
_CONTENT = (4, 8, 2)


class StreamedTask(Task):
    """A NeuroGym task whose conditions cannot be enumerated.

    Every step's trials are NeuroGym's own under a seed of that step's own. A trial that is shorter
    than T time steps is followed by the next one, as in `neurogym.Dataset`; T is the length of the
    longest of 64 trials.

    `content` is a digest of 64 trials, of the source of the environment's own classes, and of what it holds from the
    start that JSON can. It sees most changes of the environment, of its arguments and timing. It misses a change in a
    function or a file outside those classes, or in NeuroGym's TrialEnv, if none of these trials shows it. A comment
    changes it as well: better one run too many than a record of other trials.
    """

    dt: float

    def __init__(self, name: str, version: str, dt: float, reason: str) -> None:
        """Open the environment and see that a seed settles its trials.

        Args:
            name: the NeuroGym id.
            version: the behaviour's name.
            dt: time step in ms.
            reason: why it is not compiled, for the message of an error.

        Raises:
            ValueError: its trials depend on more than a seed, or are no data of a classification.
        """
        self.name, self.version, self.label = name, version, name
        self.dt = float(dt)
        environment = open_environment(name, dt)
        self.N_in = int(environment.observation_space.shape[0])
        self.N_out = int(environment.action_space.n)
        self._datasets = functools.lru_cache(maxsize=4)(self._new_dataset)
        try:
            self.T, wrong = _probe(environment)
            settled = wrong is not None or self._seed_settles_trials()
        # An environment can fail in any way.
        except Exception as error:
            why = " ".join(str(error).split())
            raise ValueError(
                f"NeuroGym's {name} cannot be a task: {reason}, and its trials fail ({why})"
            ) from error
        if wrong is not None:
            raise ValueError(f"NeuroGym's {name} cannot be a task: it {wrong}")
        if not settled:
            raise ValueError(
                f"NeuroGym's {name} cannot be a task: {reason}, and a seed does not settle its "
                "trials"
            )
        self.content = self._digest(environment)

    def _draw(self, seed: int, start: int, count: int, batch: int, split: Split) -> Trials:
        inputs = np.empty((count, self.T, batch, self.N_in), np.float32)
        targets = np.empty((count, self.T, batch), np.int64)
        dataset = self._datasets(batch)
        for k, step in enumerate(range(start, start + count)):
            key = (self.name, self.version, self.dt, seed, split, batch)
            word = int(random_words(1, step, *key)[0])
            # Dataset seeds environment b with its own seed + b, which must be below 2^32.
            dataset.seed(word % (2**32 // batch) * batch)
            inputs[k], targets[k] = dataset()
        return Trials(inputs, targets)

    def _new_dataset(self, batch: int) -> Any:
        # A cache of one sequence is refilled at every call, hence after every seeding.
        dataset = neurogym().Dataset(
            open_environment(self.name, self.dt), batch_size=batch, seq_len=self.T, cache_len=0
        )
        # Dataset's copies can draw periods from the original's generator, which nobody seeds.
        dataset.envs = [open_environment(self.name, self.dt) for _ in range(batch)]
        return dataset

    def _seed_settles_trials(self) -> bool:
        """Say whether draws repeat after others, and in a new environment."""
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
        # Values that differ between two environments made alike are not part of the task.
        one, other = (_values(open_environment(self.name, self.dt)) for _ in range(2))
        held = sorted(one.items() & other.items())
        return digest(self.N_out, *arrays, _sources(environment), held)


def _probe(environment: Any) -> tuple[int, str | None]:
    """The length of the longest trial, and what is wrong with the first that can be no data."""
    environment.seed(0)
    longest = 0
    for _ in range(_PROBE_TRIALS):
        environment.new_trial()
        inputs, targets = np.array(environment.ob, float), np.array(environment.gt, float)
        wrong = fault(inputs, targets, int(environment.action_space.n))
        if wrong is not None:
            return longest, wrong
        longest = max(longest, len(inputs))
    return longest, None


def _sources(environment: Any) -> list[str]:
    """The text of an environment's classes up to NeuroGym's TrialEnv, where it can be had."""
    found = []
    for cls in type(environment).__mro__:
        if cls is neurogym().core.TrialEnv:
            break
        try:
            found.append(inspect.getsource(cls))
        except (OSError, TypeError):
            found.append(cls.__qualname__)
    return found


def _values(environment: Any) -> dict[str, str]:
    """What an environment holds that JSON can, as text; not what a representation shows an address of."""
    found = {}
    for name in state(environment):
        value = vars(environment)[name]
        try:
            found[name] = json.dumps(value, sort_keys=True, default=_listed)
        except (TypeError, ValueError):
            continue
    return found


def _listed(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError
