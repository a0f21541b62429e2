"""The NTK by neural-tangents and by jax alone, in the environment that `ntk_runs.py` beside this file makes.

    python ntk_neural_tangents.py given.npz kernel.npy implementation repeats

`given.npz` holds x [T, B, N_in], W, U, w, rho, last and readout; the kernel [B O, B O] is written, and the median time
of a call in seconds and the rise of resident memory in bytes are printed.
"""

import resource
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import neural_tangents as nt
import numpy as np


def main(given_path: str, kernel_path: str, implementation: str, repeats: str) -> None:
    """Time `repeats` calls after the one that compiles."""
    given = np.load(given_path)
    x = jnp.asarray(given["x"]).transpose(1, 0, 2)  # [B, T, N_in]
    weights = {"W": jnp.asarray(given["W"]), "U": jnp.asarray(given["U"])}
    if given["readout"]:
        weights["w"] = jnp.asarray(given["w"])
    rho, last = float(given["rho"]), bool(given["last"])

    def outputs(weights: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        h = jnp.zeros((len(x), len(weights["W"])))
        found = []
        for t in range(x.shape[1]):
            a = jax.nn.relu(h)
            h = rho * h + (1 - rho) * (a @ weights["W"].T + x[:, t] @ weights["U"].T)
            found.append(jax.nn.relu(h))
        rates = jnp.stack(found[-1:] if last else found, axis=1)  # [B, t, N]
        y = rates @ weights["w"].T if "w" in weights else rates
        return y.reshape(len(x), -1)

    def by_jacrev(x: jax.Array, _: None, weights: dict[str, jax.Array]) -> jax.Array:
        """Example by example, as in torch."""
        rows = jax.jacrev(lambda weights, x: outputs(weights, x[None])[0])
        found = jax.lax.map(lambda x: rows(weights, x), x).values()  # [B, O, …] each
        B, O = next(iter(found)).shape[:2]
        flat = [J.reshape(B * O, -1) for J in found]
        return sum(J @ J.T for J in flat).reshape(B, O, B, O).transpose(0, 2, 1, 3)

    kernel = jax.jit(
        by_jacrev
        if implementation == "JACREV"
        else nt.empirical_ntk_fn(
            outputs, trace_axes=(), vmap_axes=0, implementation=nt.NtkImplementation[implementation]
        )
    )
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    K = np.asarray(kernel(x, None, weights))  # [B, B, O, O]
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) * 1024 - K.nbytes
    np.save(kernel_path, K.transpose(0, 2, 1, 3).reshape(K.shape[0] * K.shape[2], -1))
    seconds = []
    for _ in range(int(repeats)):
        started = time.perf_counter()
        kernel(x, None, weights).block_until_ready()
        seconds.append(time.perf_counter() - started)
    print(statistics.median(seconds), peak)


if __name__ == "__main__":
    main(*sys.argv[1:])
