"""The NTK by jax alone and by neural-tangents, in the environment that `ntk_environments.py` beside this file makes.

    python -m benchmarks.peers.ntk_jax given.npz kernel.npy way repeats limit threads

`given.npz` holds x, the weights by name, and as JSON the name and settings of a function in `ntk_functions.py`. The
kernel [B O, B O] is written, or that of the first examples where all would take too long. The last line printed is the
number of its examples, the median time of a call in seconds, and the rise of resident memory in bytes.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.peers.ntk_functions import FUNCTIONS, Operations
from benchmarks.peers.ntk_stages import repeats_within, staged, timed


def main(
    given_path: str, kernel_path: str, way: str, repeats: str, limit: str, threads: str
) -> None:
    """Measure, and print."""
    # Jax takes as many threads as it has cores, which it asks when it is imported.
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[: int(threads)])
    import jax
    import numpy as np

    given = dict(np.load(given_path))
    x, about = given.pop("x"), json.loads(str(given.pop("about")))
    weights = {name: jax.numpy.asarray(value) for name, value in given.items()}
    function = partial(FUNCTIONS[about["function"]], operations(), **about["settings"])

    def outputs(weights: dict[str, Any], x: Any) -> Any:
        return function(weights, x)

    kernel = jax.jit(kernel_function(outputs, way))

    def call_of(b: int) -> Callable[[], Any]:
        some = jax.numpy.asarray(x[:b])
        return lambda: kernel(some, None, weights).block_until_ready()

    found = staged(call_of, len(x), float(limit))
    K = np.asarray(found.kernel)  # [B, B, O, O]
    np.save(kernel_path, K.transpose(0, 2, 1, 3).reshape(K.shape[0] * K.shape[2], -1))
    seconds = found.seconds
    if found.examples == len(x):
        call = call_of(len(x))
        # The first call compiled.
        once = timed(call)
        more = repeats_within(int(repeats), once) - 1
        seconds = statistics.median([once, *(timed(call) for _ in range(more))])
    print(found.examples, seconds, found.peak)


def kernel_function(
    outputs: Callable[[Any, Any], Any], way: str
) -> Callable[[Any, None, Any], Any]:
    """A function of x, None and weights that gives K [B, B, O, O]."""
    import jax

    def by_jacrev(x: Any, _: None, weights: Any) -> Any:
        rows = jax.jacrev(lambda weights, x: outputs(weights, x[None])[0])
        if way == "jacrev of all":
            found = jax.vmap(rows, (None, 0))(weights, x)
        else:
            found = jax.lax.map(lambda x: rows(weights, x), x)
        jacobians = list(found.values())  # [B, O, …] each
        B, O = jacobians[0].shape[:2]
        flat = [J.reshape(B * O, -1) for J in jacobians]
        return sum(J @ J.T for J in flat).reshape(B, O, B, O).transpose(0, 2, 1, 3)

    if way.startswith("jacrev"):
        return by_jacrev
    import neural_tangents as nt

    return nt.empirical_ntk_fn(
        lambda weights, x: outputs(weights, x),
        trace_axes=(),
        vmap_axes=0,
        implementation=nt.NtkImplementation[way],
    )


def operations() -> Operations:
    """Those of jax."""
    import jax

    def convolve(x: Any, weight: Any, stride: int) -> Any:
        return jax.lax.conv_general_dilated(x, weight, (stride, stride), ((1, 1), (1, 1)))

    return Operations(
        jax.numpy,
        jax.nn.relu,
        partial(jax.nn.gelu, approximate=False),
        jax.nn.sigmoid,
        jax.nn.softmax,
        convolve,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
