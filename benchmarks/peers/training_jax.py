"""One SGD iteration of a pack by jax, in the environment that `ntk_environments.py` beside this file makes.

    python -m benchmarks.peers.training_jax given.npz rounds threads

`given.npz` holds the weights of R networks ("recurrent" [R, N, N], "input", "readout"), batches x [C, R, T, B, N_in]
with targets [C, R, T, B], and "settings", which are rho, the learning rate and the momentum. The gradient is that of
`vmap` over networks, and the whole step is compiled. The steps of the recurrence are unrolled or scanned, whichever is
faster. The last line printed is JSON: the median seconds of a step, and the losses of the batches, [C][R].
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from typing import Any


def main(path: str, rounds: str, threads: str) -> None:
    """Measure, and print."""
    # Jax takes as many threads as it has cores, which it asks when it is imported.
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[: int(threads)])
    import jax
    import numpy as np

    given = dict(np.load(path))
    names = ("recurrent", "input", "readout")
    weights = [jax.numpy.asarray(given[name]) for name in names]
    batches = [
        (jax.numpy.asarray(x), jax.numpy.asarray(targets))
        for x, targets in zip(given["x"], given["targets"], strict=True)
    ]
    rho, learning_rate, momentum = map(float, given["settings"])
    found: list[tuple[float, list[list[float]]]] = []
    for scanned in (False, True):
        step = jax.jit(step_function(rho, learning_rate, momentum, scanned))
        state = (weights, [jax.numpy.zeros_like(value) for value in weights])
        losses = []
        for x, targets in batches:
            state, loss = step(state, x, targets)
            losses.append(np.asarray(loss).tolist())
        times = []
        for _ in range(int(rounds)):
            started = time.perf_counter()
            state, loss = step(state, *batches[0])
            loss.block_until_ready()
            times.append(time.perf_counter() - started)
        found.append((statistics.median(times), losses))
    seconds, losses = min(found)
    print(json.dumps({"seconds": seconds, "losses": losses}))


def step_function(rho: float, learning_rate: float, momentum: float, scanned: bool) -> Any:
    """A function of (weights, velocities), x [R, T, B, N_in] and targets; gives both anew and the losses [R]."""
    import jax
    from jax import numpy as jnp

    def loss_of(weights: Any, x: Any, targets: Any) -> Any:
        recurrent, input, readout = weights

        def advance(h: Any, x_t: Any) -> tuple[Any, Any]:
            drive = jax.nn.relu(h) @ recurrent.T + x_t @ input.T
            h = rho * h + (1 - rho) * drive
            return h, jax.nn.relu(h) @ readout.T

        h = jnp.zeros((x.shape[1], recurrent.shape[0]), x.dtype)
        if scanned:
            _, y = jax.lax.scan(advance, h, x)
        else:
            outputs = []
            for x_t in x:
                h, y_t = advance(h, x_t)
                outputs.append(y_t)
            y = jnp.stack(outputs)
        log_p = jax.nn.log_softmax(y)
        return -jnp.take_along_axis(log_p, targets[..., None], -1).mean()

    gradients = jax.vmap(jax.value_and_grad(loss_of))

    def step(state: Any, x: Any, targets: Any) -> Any:
        weights, velocities = state
        losses, found = gradients(weights, x, targets)
        velocities = [momentum * v + g for v, g in zip(velocities, found, strict=True)]
        weights = [w - learning_rate * v for w, v in zip(weights, velocities, strict=True)]
        return (weights, velocities), losses

    return step


if __name__ == "__main__":
    main(*sys.argv[1:])
