"""The guards: ratios of times, powers of growth, counts of work and peak memory; lower is better.

The gate compares them with `floors.json`, whose keys are `guards.CLASS.METHOD` and the parameters. Who
renames a guard renames its key too.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from hpr.system.devices import one_thread

from .backends import chosen_backend
from .calls import (
    DRAWS,
    module_ntk_call,
    ntk_by_torch_func,
    ntk_call,
    training_call,
    trial_calls,
    window_call,
)
from .cases import RHO, SHAPES, NetworkShape, draw_network
from .experiments import filled
from .measure import Call, device, exponent, peak_memory, slowdown, slowdown_beside_others, work
from .peak import ntk_flops, peak_call


class Slowdowns:
    """This project's time divided by another's, measured in turns."""

    unit = "ratio"
    timeout = 120.0

    def track_slowdown_of_ntk_against_torch_func(self) -> float:
        """768 rows at the 2AF shape, beside the Jacobians by jacrev and their contraction."""
        shape = SHAPES["2AF"]
        return slowdown(ntk_call(shape), ntk_by_torch_func(shape), rounds=5)

    def track_slowdown_of_ntk_of_a_module_against_the_fused_one(self) -> float:
        """768 rows at the 2AF shape, by `ntk` of a loop over steps, beside `leaky_rnn_ntk`; both by torch alone.

        C kernels serve the recurrence of the fused path, and no loop of a module's own.
        """
        shape = SHAPES["2AF"]
        with chosen_backend("torch"):
            return slowdown(module_ntk_call(shape), ntk_call(shape), rounds=9)

    def track_slowdown_of_training_against_its_products(self) -> float:
        """Time per FLOP of 40 networks of 300 units, beside that of the products of rates and weights of one step.

        A ratio to one large product would rise with the other load of the machine, without a change of code.
        """
        R, B, N = 40, 32, 300
        rates, weights = torch.randn(R, B, N), torch.randn(R, N, N)
        iterate, flops = training_call(R=R, B=B, N=N)
        return slowdown(iterate, lambda: rates @ weights, rounds=15) * 2 * R * B * N**2 / flops

    def track_slowdown_of_training_against_the_fma_peak(self) -> float:
        """Time per FLOP of ten iterations of 40 networks of 300 units by the C kernels, beside that of the peak."""
        return against_the_peak(*window_call())

    def track_slowdown_of_ntk_against_the_fma_peak(self) -> float:
        """Time per FLOP of 768 rows at the 2AF shape by the C kernels, beside that of the peak."""
        shape = SHAPES["2AF"]
        return against_the_peak(ntk_call(shape), ntk_flops(shape))

    def track_slowdown_of_trials_against_neurogym(self) -> float:
        """A batch of 32 trials of 2AF, beside one by `neurogym.Dataset`."""
        return slowdown(*trial_calls("2AF")) / DRAWS

    def track_slowdown_of_training_beside_others(self) -> float:
        """Ten iterations of 40 networks of 300 units while other processes keep all cores busy, beside quiet cores."""
        return slowdown_beside_others(window_call()[0])

    def track_slowdown_of_ntk_beside_others(self) -> float:
        """768 rows at the 2AF shape while other processes keep all cores busy, beside quiet cores."""
        return slowdown_beside_others(ntk_call(SHAPES["2AF"]))


def against_the_peak(call: Call, flops: float) -> float:
    """The time per FLOP of a call on one thread, divided by that of fused multiply-adds in registers."""
    with one_thread():
        peak, peak_flops = peak_call()
    return slowdown(call, peak, rounds=9) * peak_flops / flops


def ntk_of_size(T: int = 8, B: int = 32, N: int = 300) -> Call:
    """The kernel at the 2AF shape, with other T, B or N."""
    return ntk_call(NetworkShape(T, B, 3, 3, "all", N))


def finding_call(runs: int) -> Call:
    """Load every run of a store that holds `runs` runs."""
    folder = tempfile.mkdtemp()
    store, specs = filled(Path(folder), runs)

    def find() -> None:
        for spec in specs:
            store.load(spec)

    weakref.finalize(find, shutil.rmtree, folder)
    return find


def resuming_call(runs: int) -> Call:
    """Plan a reproduction whose `runs` runs are all kept, from their specifications on."""
    from hpr.experiment.plan import plan, tasks
    from hpr.experiment.specification import distinct

    folder = tempfile.mkdtemp()
    store, specs = filled(Path(folder), runs)

    def resume() -> None:
        # New specifications have no key yet.
        asked = [replace(spec) for spec in specs]
        distinct(spec.shape for spec in asked)
        left = plan(asked, store.holding(asked), tasks(), torch.device("cpu"))
        assert left.stored == runs

    weakref.finalize(resume, shutil.rmtree, folder)
    return resume


def verifying_call(runs: int) -> Call:
    """Check every record of a store of `runs` runs, as `python -m hpr.store verify` does."""
    from hpr.experiment.inventory import each_kept, kept_key

    folder = tempfile.mkdtemp()
    filled(Path(folder), runs)

    def verify() -> None:
        assert sum(1 for _ in each_kept(Path(folder), kept_key, print)) == runs

    weakref.finalize(verify, shutil.rmtree, folder)
    return verify


def exporting_call(runs: int) -> Call:
    """Make the table of a store of `runs` runs."""
    from hpr.experiment.table import columns_of

    folder = tempfile.mkdtemp()
    filled(Path(folder), runs)

    def export() -> None:
        columns = columns_of(Path(folder), lambda bad: None)
        assert len(columns["key"]) == runs

    weakref.finalize(export, shutil.rmtree, folder)
    return export


# In place of 15, for calls of seconds, which vary little.
FEWER_ROUNDS = {"resuming in runs": 3, "verifying in runs": 3, "exporting in runs": 3}
# Counts of runs that one process reads alone (`hpr.experiment.reading`).
ALONE = (500, 3_900)
GROWTHS: dict[str, tuple[tuple[int, ...], Callable[[int], Call]]] = {
    "NTK in T": ((4, 8, 16), lambda T: ntk_of_size(T=T)),
    "NTK in B": ((16, 32, 64), lambda B: ntk_of_size(B=B)),
    "NTK in N": ((150, 300, 600), lambda N: ntk_of_size(N=N)),
    "training in T": ((8, 16, 40), lambda T: training_call(R=10, dt=800 / T)[0]),
    "training in B": ((16, 32, 64), lambda B: training_call(R=10, B=B)[0]),
    "training in N": ((150, 300, 600), lambda N: training_call(R=10, N=N)[0]),
    "training in R": ((10, 20, 40), lambda R: training_call(R=R)[0]),
    "finding in runs": ((25, 100, 400), finding_call),
    "resuming in runs": (ALONE, resuming_call),
    "verifying in runs": (ALONE, verifying_call),
    "exporting in runs": (ALONE, exporting_call),
}


class Growth:
    """The exponent p of a time that grows as size^p, which shows a change of complexity on a noisy machine too."""

    unit = "power"
    timeout = 300.0
    param_names = ("of",)
    params = (tuple(GROWTHS),)

    def track_exponent(self, of: str) -> float:
        """Slope of log time on log size."""
        sizes, call_at = GROWTHS[of]
        return exponent(call_at, sizes, FEWER_ROUNDS.get(of, 15))


def forward_and_backward() -> Call:
    """The rates of a pack of four, and the gradient of their sum."""
    from hpr_kernels import leaky_rnn

    pack = draw_network(SHAPES["2AF"], R=4)

    def call() -> None:
        W, U = (weights.detach().requires_grad_() for weights in (pack.recurrent, pack.input))
        leaky_rnn(pack.x, recurrent=W, input=U, rho=RHO).sum().backward()

    return call


COUNTED: dict[str, Callable[[], Call]] = {
    "NTK, hadamard": lambda: ntk_call(SHAPES["2AF"], order="hadamard"),
    "NTK, propagate": lambda: ntk_call(SHAPES["2AF"], order="propagate"),
    "NTK, dense": lambda: ntk_call(SHAPES["2AF"], order="dense"),
    "training": lambda: training_call(R=4)[0],
    "forward and backward": forward_and_backward,
}


class Counts:
    """What a call asks of torch where it serves: the same counts every time, so that one more copy shows.

    What the C kernels do is not seen by torch's profiler, so they are left out.
    """

    timeout = 120.0
    param_names = ("call",)
    params = (tuple(COUNTED),)

    def setup(self, name: str) -> None:
        """Count the work of one call."""
        with chosen_backend("torch"):
            self.work = work(COUNTED[name]())

    def track_multiply_adds(self, _: str) -> int:
        """Multiply-adds of matrix products, by their shapes."""
        return self.work.multiply_adds

    def track_allocated(self, _: str) -> int:
        """Bytes allocated, freed or not."""
        return self.work.allocated

    def track_copied(self, _: str) -> int:
        """Elements written by copies."""
        return self.work.copied

    track_multiply_adds.unit = "multiply-adds"  # type: ignore[attr-defined]
    track_allocated.unit = "bytes"  # type: ignore[attr-defined]
    track_copied.unit = "elements"  # type: ignore[attr-defined]


class Memory:
    """Peak of the bytes that a call needs; asv runs each case in a process of its own."""

    unit = "bytes"
    timeout = 120.0
    param_names = ("shape", "device")
    params = (("2AF", "sMNIST"), ("cpu", "cuda"))

    def setup(self, name: str, where: str) -> None:
        """Make the call."""
        self.device = device(where)
        self.call = ntk_call(SHAPES[name], self.device)

    def track_ntk(self, name: str, _: str) -> int:
        """Bytes beside the kernel itself."""
        return peak_memory(self.call, self.device) - 4 * SHAPES[name].rows ** 2
