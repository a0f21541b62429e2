"""A stand-in for an environment's random generator, whose answers are chosen in advance."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

_Size = int | tuple[int, ...] | None

MOST_CONDITIONS = 4096
_MOST_DRAWS = 1024


class NotEnumerable(Exception):
    """The trials are not of a fixed length, with finitely many conditions plus additive noise."""


class Script:
    """Replaces a RandomState: it answers from a script and records the draws.

    Args:
        path: for each successive discrete draw, the index of the answer among the possible values;
            draws beyond the end of the path take the first possible value.
        noise: the successive Gaussian numbers, or None for zeros.

    Attributes:
        path: the index that each discrete draw took.
        arities: the number of possible values of each discrete draw.
        probability: the probability of all discrete draws together.
        normals: how many Gaussian numbers were drawn.
    """

    def __init__(self, path: Sequence[int], noise: np.ndarray | None) -> None:
        self.path: list[int] = []
        self.arities: list[int] = []
        self.probability = 1.0
        self.normals = 0
        self._script, self._noise = path, noise

    def __getattr__(self, name: str) -> Any:
        raise NotEnumerable(f"it draws from the generator's {name}")

    def choice(
        self, a: Any, size: _Size = None, replace: bool = True, p: Sequence[float] | None = None
    ) -> Any:
        """Draw from the elements of `a`, or from range(a)."""
        values = np.arange(a) if np.ndim(a) == 0 else np.asarray(a)
        weights = np.full(len(values), 1 / len(values)) if p is None else np.array(p, float)
        if size is None:
            return values[self._branch(weights)]
        picked = []
        for _ in range(prod(np.atleast_1d(size))):
            picked.append(self._branch(weights / weights.sum()))
            if not replace:
                weights[picked[-1]] = 0
        return values[np.array(picked, int).reshape(size)]

    def randint(self, low: int, high: int | None = None, size: _Size = None) -> Any:
        """Draw from low … high - 1, or from range(low)."""
        first, stop = (0, low) if high is None else (low, high)
        if stop - first > MOST_CONDITIONS:
            raise NotEnumerable(f"it draws one of {stop - first} whole numbers")
        drawn = self.choice(np.arange(first, stop), size)
        return int(drawn) if size is None else drawn

    def permutation(self, x: Any) -> np.ndarray:
        """Draw an order of `x`, or of range(x)."""
        values = np.arange(x) if np.ndim(x) == 0 else np.asarray(x)
        return values[self.choice(len(values), len(values), replace=False)]

    def shuffle(self, x: Any) -> None:
        """Draw an order of `x`, in place."""
        x[:] = [x[i] for i in self.choice(len(x), len(x), replace=False)]

    def standard_normal(self, size: _Size = None) -> Any:
        """Return the next numbers of the noise."""
        count = 1 if size is None else prod(np.atleast_1d(size))
        first, self.normals = self.normals, self.normals + int(count)
        drawn = np.zeros(count) if self._noise is None else self._noise[first : self.normals]
        return float(drawn[0]) if size is None else drawn.reshape(size)

    def normal(self, loc: Any = 0.0, scale: Any = 1.0, size: _Size = None) -> Any:
        """Return loc + scale times the next numbers of the noise."""
        shape = np.broadcast_shapes(np.shape(loc), np.shape(scale)) if size is None else size
        return loc + scale * self.standard_normal(shape or None)

    def randn(self, *shape: int) -> Any:
        """Return the next numbers of the noise."""
        return self.standard_normal(shape or None)

    def _branch(self, weights: np.ndarray) -> int:
        """Answer one discrete draw: an index into `weights`, whose entry is not zero."""
        possible = np.flatnonzero(weights)
        depth = len(self.path)
        if depth == _MOST_DRAWS:
            raise NotEnumerable(f"a trial takes over {_MOST_DRAWS} draws")
        taken = self._script[depth] if depth < len(self._script) else 0
        if taken >= len(possible):
            raise NotEnumerable("its trials depend on earlier ones")
        self.path.append(taken)
        self.arities.append(len(possible))
        self.probability *= float(weights[possible[taken]])
        return int(possible[taken])
