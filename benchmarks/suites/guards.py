"""What the gate holds against `floors.json`: ratios, powers of growth, counts of work, peak memory. Lower is better."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path

import torch

from .cases import DRAWS, SHAPES, Shape, draw, kernel, kernel_by_torch_func, training, trials
from .experiments import filled
from .measure import Call, device, exponent, peak_memory, slowdown, work


class Slowdowns:
    """This project's time over another's, in turns."""

    unit = "ratio"
    timeout = 120.0

    def track_slowdown_of_ntk_against_torch_func(self) -> float:
        """768 rows at the 2AF shape; there the Jacobians by jacrev, contracted."""
        shape = SHAPES["2AF"]
        return slowdown(kernel(shape), kernel_by_torch_func(shape), rounds=5)

    def track_slowdown_of_training_against_its_products(self) -> float:
        """40 networks of 300 units, a FLOP; there the products of one step, rates by weights.

        A ratio to one large product would rise with the other load of the machine, without a change of code.
        """
        R, B, N = 40, 32, 300
        rates, weights = torch.randn(R, B, N), torch.randn(R, N, N)
        iterate, flops = training(R=R, B=B, N=N)
        return slowdown(iterate, lambda: rates @ weights, rounds=15) * 2 * R * B * N**2 / flops

    def track_slowdown_of_trials_against_neurogym(self) -> float:
        """A batch of 32 trials of 2AF; there `neurogym.Dataset`'s."""
        return slowdown(*trials("2AF")) / DRAWS


def ntk(T: int = 8, B: int = 32, N: int = 300) -> Call:
    """The kernel of a network near 2AF's."""
    return kernel(Shape(T, B, 3, 3, "all", N))


def finding(runs: int) -> Call:
    """Load every run of a store of so many."""
    folder = tempfile.mkdtemp()
    store, specs = filled(Path(folder), runs)

    def find() -> None:
        for spec in specs:
            store.load(spec)

    weakref.finalize(find, shutil.rmtree, folder)
    return find


GROWTHS: dict[str, tuple[tuple[int, ...], Callable[[int], Call]]] = {
    "NTK in T": ((4, 8, 16), lambda T: ntk(T=T)),
    "NTK in B": ((16, 32, 64), lambda B: ntk(B=B)),
    "NTK in N": ((150, 300, 600), lambda N: ntk(N=N)),
    "training in T": ((8, 16, 40), lambda T: training(R=10, dt=800 / T)[0]),
    "training in B": ((16, 32, 64), lambda B: training(R=10, B=B)[0]),
    "training in N": ((150, 300, 600), lambda N: training(R=10, N=N)[0]),
    "training in R": ((10, 20, 40), lambda R: training(R=R)[0]),
    "finding in runs": ((25, 100, 400), finding),
}


class Growth:
    """The power that a time grows with: a change of complexity shows on any machine, however noisy."""

    unit = "power"
    timeout = 120.0
    param_names = ("of",)
    params = (tuple(GROWTHS),)

    def track_exponent(self, of: str) -> float:
        """Slope of log time on log size."""
        sizes, call_at = GROWTHS[of]
        return exponent(call_at, sizes)


def forward_and_backward() -> Call:
    """The recurrence of a pack of four, and the gradient of its sum."""
    from hpr_kernels import leaky_rnn

    given = draw(SHAPES["2AF"], R=4)

    def call() -> None:
        W, U = (given[name].detach().requires_grad_() for name in ("recurrent", "input"))
        leaky_rnn(given["x1"], recurrent=W, input=U, rho=given["rho"]).sum().backward()

    return call


COUNTED: dict[str, Callable[[], Call]] = {
    "NTK, hadamard": lambda: kernel(SHAPES["2AF"], order="hadamard"),
    "NTK, propagate": lambda: kernel(SHAPES["2AF"], order="propagate"),
    "NTK, dense": lambda: kernel(SHAPES["2AF"], order="dense"),
    "training": lambda: training(R=4)[0],
    "forward and backward": forward_and_backward,
}


class Counts:
    """What a call asks of torch: the same number every time, so that one copy or one product more shows."""

    timeout = 120.0
    param_names = ("call",)
    params = (tuple(COUNTED),)

    def setup(self, name: str) -> None:
        """Count."""
        self.work = work(COUNTED[name]())

    def track_multiply_adds(self, _: str) -> int:
        """Of matrix products, by their shapes."""
        return self.work.multiply_adds

    def track_allocated(self, _: str) -> int:
        """Bytes, freed or not."""
        return self.work.allocated

    def track_copied(self, _: str) -> int:
        """Elements written by copies."""
        return self.work.copied

    track_multiply_adds.unit = "multiply-adds"  # type: ignore[attr-defined]
    track_allocated.unit = "bytes"  # type: ignore[attr-defined]
    track_copied.unit = "elements"  # type: ignore[attr-defined]


class Memory:
    """Bytes that a call needs at its highest; asv gives each a process of its own."""

    unit = "bytes"
    timeout = 120.0
    param_names = ("shape", "device")
    params = (("2AF", "sMNIST"), ("cpu", "cuda"))

    def setup(self, name: str, where: str) -> None:
        """The call."""
        self.device = device(where)
        self.call = kernel(SHAPES[name], self.device)

    def track_ntk(self, name: str, _: str) -> int:
        """Of a kernel, beside itself."""
        shape = SHAPES[name]
        rows = shape.B * shape.N_out * (shape.T if shape.outputs == "all" else 1)
        return peak_memory(self.call, self.device) - 4 * rows**2
