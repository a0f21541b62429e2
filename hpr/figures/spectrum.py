"""The spectrum of a run's initial recurrent weights."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from hpr.connectivity import Connectivity, magnitudes
from hpr.experiment.specification import RunSpec


def spectrum(spec: RunSpec, *, singular: bool = False) -> NDArray[np.float64]:
    """|λ_i| of W_h^(0), descending [N]; or its singular values."""
    return _cached(spec.connectivity, spec.N, spec.seed, singular)


# Cached, as figures of several tasks show the spectra of the same matrices.
@functools.cache
def _cached(structure: Connectivity, N: int, seed: int, singular: bool) -> NDArray[np.float64]:
    return magnitudes(structure.draw(N, seed), singular=singular)
