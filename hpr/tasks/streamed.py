"""A streamed task: trials through NeuroGym's own Dataset."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from .base import Split, Task, Trials
from .counter import random_words
from .environment import neurogym, open_environment, state

_PROBE_TRIALS = 64


class StreamedTask(Task):
    """A NeuroGym task whose conditions cannot be enumerated.

    Every step's trials are NeuroGym's own under a seed of that step's own. A trial that is shorter
    than T time steps is followed by the next one, as in `neurogym.Dataset`; T is the length of the
    longest of 64 trials.
    """

    def __init__(self, name: str, version: str, dt: float, reason: str) -> None:
        """Open the environment and see that a seed settles its trials.

        Args:
            name: the NeuroGym id.
            version: the behaviour's name.
            dt: time step in ms.
            reason: why it is not compiled, for the message of an error.

        Raises:
            ValueError: its trials depend on more than a seed.
        """
        self.name, self.version, self.label = name, version, name
        self._dt = float(dt)
        environment = open_environment(name, dt)
        self.N_in = int(environment.observation_space.shape[0])
        self.N_out = int(environment.action_space.n)
        try:
            self.T = _longest_trial(environment)
            self._datasets = functools.lru_cache(maxsize=4)(self._new_dataset)
            settled = self._seed_settles_trials()
        # An environment can fail in any way.
        except Exception as error:
            raise ValueError(
                f"NeuroGym's {name} cannot be a task: {reason}, and its trials fail ({error})"
            ) from error
        if not settled:
            raise ValueError(
                f"NeuroGym's {name} cannot be a task: {reason}, and a seed does not settle its "
                "trials"
            )

    def _draw(self, seed: int, start: int, count: int, batch: int, split: Split) -> Trials:
        inputs = np.empty((count, self.T, batch, self.N_in), np.float32)
        targets = np.empty((count, self.T, batch), np.int64)
        dataset = self._datasets(batch)
        for k, step in enumerate(range(start, start + count)):
            key = (self.name, self.version, self._dt, seed, split, batch)
            word = int(random_words(1, step, *key)[0])
            # Dataset seeds environment b with its own seed + b, which must be below 2^32.
            dataset.seed(word % (2**32 // batch) * batch)
            inputs[k], targets[k] = dataset()
        return Trials(inputs, targets)

    def _new_dataset(self, batch: int) -> Any:
        # A cache of one sequence is refilled at every call, hence after every seeding.
        dataset = neurogym().Dataset(
            open_environment(self.name, self._dt), batch_size=batch, seq_len=self.T, cache_len=0
        )
        # Dataset's copies can draw periods from the original's generator, which nobody seeds.
        dataset.envs = [open_environment(self.name, self._dt) for _ in range(batch)]
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


def _longest_trial(environment: Any) -> int:
    environment.seed(0)
    longest = 0
    for _ in range(_PROBE_TRIALS):
        environment.new_trial()
        longest = max(longest, len(environment.ob))
    return longest
