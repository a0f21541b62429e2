"""Training by the C kernels: the equations of `Step`, and one result on every CPU, in any pack, on any thread.

Where torch is named, `Step` trains; the tests of `test_fused_step.py` and `test_step.py` compare it with torch.optim.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hpr.connectivity import Dale, Dense
from hpr.experiment.specification import RunSpec
from hpr.tasks import Task, make_task
from hpr.training.initial import initial_pack
from hpr.training.loop import new_trainer, train_pack
from hpr.training.native_step import NativeStep
from hpr.training.pack import Pack
from hpr.training.step import Step
from hpr_kernels.internal import Constraint, iterations
from hpr_kernels.native import library
from hpr_kernels.testing import assert_close, relative_error

pytestmark = pytest.mark.skipif(
    library.library() is None, reason="the installation has built no C kernels"
)
CPU = torch.device("cpu")
HERE = Path(__file__).parent
NAMES = ("weights", "readout", "velocity", "readout_velocity", "losses", "accuracies")


def given(
    N: int,
    T: int,
    B: int,
    N_in: int = 2,
    N_out: int = 3,
    *,
    R: int = 1,
    count: int = 3,
    squared: bool = False,
    two_layers: bool = False,
    dale: bool = False,
    dtype: torch.dtype = torch.float64,
) -> dict[str, Any]:
    """Return arguments of `iterations.train_networks`: random weights, velocities and trials, two streams of them."""
    rng = torch.Generator().manual_seed(5)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    columns = N_in if two_layers else N + N_in
    P = columns if two_layers else -(-columns // 16) * 16
    weights, velocity = torch.zeros(R, N, P), torch.zeros(R, N, P)
    for value, size in ((weights, 1.2), (velocity, 0.1)):
        value[..., :columns] = normal(R, N, columns) * size / columns**0.5
    readout = normal(R, N_out, N) / N**0.5
    constraint = None
    if dale:
        # `Step` knows constraints of recurrent weights alone.
        constraint = torch.randint(-1, 3, (R, N, P), generator=rng).to(torch.int8)
        constraint[..., N:] = 0
        weights = torch.where(constraint == -1, -weights.abs(), weights)
        weights = torch.where(constraint == 1, weights.abs(), weights)
        weights[constraint == Constraint.FROZEN] = 0
    targets = (
        normal(2, count, T, B, N_out)
        if squared
        else torch.randint(N_out, (2, count, T, B), generator=rng)
    )
    return {
        "x": normal(2, count, T, B, N_in).to(dtype),
        "targets": targets.to(dtype) if squared else targets,
        "weights": weights.to(dtype),
        "velocity": velocity.to(dtype),
        "readout": readout.to(dtype),
        "readout_velocity": torch.zeros_like(readout).to(dtype),
        "trials": torch.arange(R) % 2,
        "constraint": constraint,
    }


def options(two_layers: bool = False, **change: Any) -> dict[str, Any]:
    usual = {"rho": 0.5, "activation": "relu", "first": 0, "learning_rate": 0.05, "momentum": 0.9}
    return {**usual, **({"rho": None} if two_layers else {}), **change}


def trained(arguments: dict[str, Any], **how: Any) -> dict[str, Tensor]:
    """Train copies by the C kernels; return weights, velocities and curves."""
    copies = {k: v.clone() if isinstance(v, Tensor) else v for k, v in arguments.items()}
    curves = iterations.train_networks(copies.pop("x"), copies.pop("targets"), **copies, **how)
    found = {name: copies[name] for name in NAMES if name in copies}
    return found | {k: v for k, v in zip(NAMES[4:], curves, strict=True) if v is not None}


class Shape:
    """What `Step` asks of a task."""

    def __init__(self, T: int, N_in: int, N_out: int, squared: bool, first: int) -> None:
        self.T, self.N_in, self.N_out = T, N_in, N_out
        self.loss = "mse" if squared else "cross_entropy"
        self.loss_steps = "last" if first else "all"


def trained_by_torch(arguments: dict[str, Any], **how: Any) -> dict[str, Tensor]:
    """Return what `trained` does, by `Step`, in the dtype of the arguments; torch must be the backend."""
    x, targets, trials = (arguments[name] for name in ("x", "targets", "trials"))
    (_, count, T, B, N_in), (R, N_out, N) = x.shape, arguments["readout"].shape
    spec: Any = type("Spec", (), {
        "batch": B, "model": "leaky_rnn" if how["rho"] is not None else "two_layer", **how,
    })  # fmt: skip
    task: Any = Shape(T, N_in, N_out, targets.is_floating_point(), how["first"])
    # A pack of one is trained as two, because MKL takes another path for it.
    lanes = list(range(R)) * 2
    weights, readout = (arguments[name][lanes] for name in ("weights", "readout"))
    step = Step(Pack(weights, readout, N_in, weights.new_zeros(len(lanes), N)), spec, task)
    step.velocity.copy_(arguments["velocity"][lanes])
    if arguments["constraint"] is not None:
        step.constraint = arguments["constraint"][lanes]
    points = [step(x[trials[lanes], i], targets[trials[lanes], i]) for i in range(count)]
    found = {
        "weights": step.pack.weights, "readout": step.pack.readout, "velocity": step.velocity,
        "readout_velocity": step.readout_velocity, "losses": torch.stack([p[0] for p in points], 1),
    }  # fmt: skip
    if points[0][1] is not None:
        found["accuracies"] = torch.stack([p[1] for p in points if p[1] is not None], 1)
    return {name: value[:R] for name, value in found.items()}


CASES = {
    "one of each": (given(1, 1, 1, 1, 1), options()),
    "one output": (given(33, 2, 5, 1, 1), options(rho=0.0)),
    "two steps": (given(33, 2, 5, R=2), options(rho=0.9)),
    "nine steps": (given(33, 9, 33, R=3), options()),
    "last step": (given(33, 9, 5, 3, 2), options(first=8)),
    "large": (given(300, 2, 33), options()),
    "more rows than a block": (given(17, 3, 130), options()),
    "more units than a block": (given(321, 2, 3), options()),
    "linear": (given(33, 4, 5), options(activation="linear")),
    "squared": (given(33, 9, 5, squared=True), options()),
    "squared, last": (given(33, 3, 1, 3, 1, squared=True), options(first=2)),
    "two layers": (given(33, 1, 33, 20, two_layers=True), options(True)),
    "two layers, wide": (given(5, 1, 7, 300, two_layers=True, R=2), options(True)),
    "two layers, squared": (
        given(33, 1, 5, two_layers=True, squared=True),
        options(True, activation="linear", momentum=0.0),
    ),
    "constrained": (given(33, 4, 5, dale=True, R=2), options(learning_rate=0.5)),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_torch(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is rounding in fp64, and at most twice that of torch's fp32 in fp32."""
    monkeypatch.setenv("HPR_KERNELS_BACKEND", "torch")
    arguments, how = CASES[case]
    exact = trained_by_torch(arguments, **how)
    got = trained(arguments, **how)
    assert set(got) == set(exact)
    for name, value in got.items():
        assert_close(value, exact[name])
    errs_at_most_twice_as_much(arguments, how)


def errs_at_most_twice_as_much(arguments: dict[str, Any], how: dict[str, Any]) -> None:
    """Check the errors in fp32 against those of torch, which must be the backend, from one training in fp64."""
    single = {
        k: v.float() if isinstance(v, Tensor) and v.is_floating_point() else v
        for k, v in arguments.items()
    }
    exact = trained_by_torch(
        {k: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v
         for k, v in single.items()},
        **how,
    )  # fmt: skip
    torchs, ours = trained_by_torch(single, **how), trained(single, **how)
    for name, wanted in exact.items():
        limit = max(relative_error(torchs[name], wanted), torch.finfo(torch.float32).eps)
        assert_close(ours[name], wanted, 2 * limit)


def test_constraints_hold_and_weights_bounce() -> None:
    arguments, how = CASES["constrained"]
    kinds, got = arguments["constraint"], trained(arguments, **how)
    weights, signed = got["weights"], kinds.abs() == 1
    assert bool((weights * kinds >= 0)[signed].all())
    assert not bool(weights[kinds == Constraint.FROZEN].any())
    free = trained({**arguments, "constraint": None}, **how)["weights"]
    assert int((free * kinds < 0)[signed].sum()) > 10


def test_an_output_that_ties_with_the_targets_is_no_hit() -> None:
    """Outputs of zero weights are all equal; with one output every answer is right."""
    for outputs, wanted in ((3, 0.0), (1, 1.0)):
        arguments = given(5, 2, 4, N_out=outputs, count=1)
        arguments["readout"].zero_()
        got = trained(arguments, **options())
        assert float(got["accuracies"]) == wanted
        assert float(got["losses"]) == pytest.approx(float(torch.tensor(outputs).double().log()))


@pytest.mark.parametrize("size", [1e3, 1e30, torch.inf, torch.nan])
def test_divergence_shows_and_hurts_no_neighbour(size: float) -> None:
    """A loss of outputs far apart is finite and right; one of infinite or undefined outputs is not finite."""
    arguments = given(33, 3, 5, R=3, count=1, dtype=torch.float32)
    clean = trained(arguments, **options())
    arguments["readout"][1] *= size
    got = trained(arguments, **options())
    rates = size < 3e38
    assert bool(got["losses"][1].isfinite()) == rates
    for name, value in got.items():
        assert torch.equal(value[[0, 2]], clean[name][[0, 2]])


def test_a_large_loss_is_that_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exponentials underflow, and the loss is the difference of two outputs."""
    monkeypatch.setenv("HPR_KERNELS_BACKEND", "torch")
    arguments = given(33, 3, 5, count=1)
    arguments["readout"] *= 1e4
    exact, got = (f(arguments, **options()) for f in (trained_by_torch, trained))
    assert_close(got["losses"], exact["losses"])
    assert torch.equal(got["accuracies"], exact["accuracies"])


def test_a_target_that_is_no_class_is_named() -> None:
    arguments = given(5, 2, 4)
    for wrong in (-1, 3):
        arguments["targets"][0, 0, 0, 0] = wrong
        with pytest.raises(ValueError, match="targets: expected classes below 3, got"):
            trained(arguments, **options())


def digest() -> str:
    """Return one hash of the results of all cases in fp32."""
    bits = hashlib.sha256()
    for arguments, how in CASES.values():
        single = {
            k: v.float() if isinstance(v, Tensor) and v.is_floating_point() else v
            for k, v in arguments.items()
        }
        for value in trained(single, **how).values():
            bits.update(value.contiguous().numpy().tobytes())
    return bits.hexdigest()


def test_every_instruction_set_gives_the_same_bits() -> None:
    """The build for CPUs without fused multiply-adds computes them in software."""
    environment = {
        **os.environ,
        library.VARIABLE: "baseline",
        "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, sys.path)]),
    }
    code = "import test_native_step as t; print(t.digest())"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == digest()


def specs_of(task: Task, count: int, **change: Any) -> list[RunSpec]:
    base = RunSpec(
        task.name, Dense(), seed=0, task_version=task.version, N=33, batch=5, iterations=6,
        trials=8, kernel_trials=4, **change,
    )  # fmt: skip
    return [replace(base, seed=i // 2, connectivity=Dense(gain=1 + i / 4)) for i in range(count)]


def state(step: NativeStep) -> list[Tensor]:
    return [step.pack.weights, step.pack.readout, step.velocity, step.readout_velocity]


def test_packs_threads_windows_and_selections_change_no_bit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = make_task("2AF")
    specs = specs_of(task, 3)
    pack = initial_pack(specs, task, CPU)
    whole = NativeStep(pack.select([0, 1, 2]), specs[0], task)
    losses, accuracies = whole.window(specs, 0, 6)
    assert accuracies is not None
    for r, spec in enumerate(specs):
        alone = NativeStep(pack.select([r]), spec, task)
        some, right = alone.window([spec], 0, 6)
        assert torch.equal(some[0], losses[r])
        assert right is not None
        assert torch.equal(right[0], accuracies[r])
        assert all(torch.equal(a[0], b[r]) for a, b in zip(state(alone), state(whole), strict=True))
    monkeypatch.setattr("hpr_kernels.workers._cores", lambda: 2)
    # The trials are drawn in chunks of one iteration.
    monkeypatch.setattr("hpr.training.trials.TRIAL_BYTES", 1)
    torch.set_num_threads(2)
    try:
        cut = NativeStep(pack.select([0, 1, 2]), specs[0], task)
        parts = [cut.window(specs, 0, 2)[0]]
        fewer = cut.select([2, 0])
        parts.append(fewer.window([specs[2], specs[0]], 2, 4)[0])
    finally:
        torch.set_num_threads(1)
    assert torch.equal(parts[0], losses[:, :2])
    assert torch.equal(parts[1], losses[[2, 0], 2:])
    for a, b in zip(state(fewer), state(whole), strict=True):
        assert torch.equal(a, b[[2, 0]])


def test_one_batch_at_a_time_is_the_same() -> None:
    task = make_task("2AF")
    specs = specs_of(task, 2)
    pack = initial_pack(specs, task, CPU)
    whole, single = (NativeStep(pack.select([0, 1]), specs[0], task) for _ in range(2))
    losses, _ = whole.window(specs, 0, 3)
    drawn = task.draw(0, 0, 3, 5)
    for i in range(3):
        x, targets = (torch.from_numpy(a[i]) for a in (drawn.inputs, drawn.targets))
        loss, _ = single(torch.stack([x, x]), torch.stack([targets, targets]))
        assert torch.equal(loss, losses[:, i])
    assert all(map(torch.equal, state(whole), state(single)))


def test_dales_law_holds_in_a_run() -> None:
    task = make_task("2AF")
    [spec] = specs_of(task, 1, learning_rate=0.5)
    spec = replace(spec, connectivity=Dale(dale_throughout=True))
    step = NativeStep(initial_pack([spec], task, CPU), spec, task)
    before = step.pack.recurrent[0].clone()
    step.window([spec], 0, 6)
    after = step.pack.recurrent[0]
    assert bool((after * torch.from_numpy(Dale().signs(33)) >= 0).all())
    assert not bool(after.diagonal().any())
    assert float((after - before).norm()) > 0.1


@pytest.mark.parametrize(
    ("backend", "kind", "engine"), [("native", NativeStep, "native"), ("torch", Step, "torch")]
)
def test_a_record_names_its_engine(
    backend: str, kind: type, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend == "native" and library.obstacle():
        pytest.skip(library.obstacle())
    monkeypatch.setenv("HPR_KERNELS_BACKEND", backend)
    task = make_task("2AF")
    specs = specs_of(task, 1)
    assert type(new_trainer(initial_pack(specs, task, CPU), specs[0], task)) is kind
    [record] = train_pack(specs, task, device=CPU)
    assert record["provenance"]["engine"] == engine


def test_margins_stay_untouched_and_unread() -> None:
    """Every buffer lies between margins of NaN, or of values that are no class and no constraint."""
    for arguments, how in CASES.values():
        wanted = trained(arguments, **how)
        storages, inner = {}, {}
        for name, value in arguments.items():
            if isinstance(value, Tensor):
                mark = torch.nan if value.is_floating_point() else 77
                storage = value.new_full((value.numel() + 256,), mark)
                inner[name] = storage[128:-128].view(value.shape).copy_(value)
                storages[name] = storage
            else:
                inner[name] = value
        margins = {k: torch.cat([s[:128], s[-128:]]) for k, s in storages.items()}
        x, targets = inner.pop("x"), inner.pop("targets")
        losses, _ = iterations.train_networks(x, targets, **inner, **how)
        assert torch.equal(losses, wanted["losses"])
        for name in NAMES[:4]:
            assert torch.equal(inner[name], wanted[name])
        for name, storage in storages.items():
            after = torch.cat([storage[:128], storage[-128:]])
            assert torch.equal(after.nan_to_num(1.0), margins[name].nan_to_num(1.0))


def test_the_mode_of_the_processor_is_the_callers_afterwards() -> None:
    """Training is the same where the caller flushes subnormal numbers to zero."""
    arguments, how = CASES["nine steps"]
    tiny = torch.tensor([1e-40])
    small = {
        k: v.float() * (1e-20 if k in ("x", "readout") else 1)
        if isinstance(v, Tensor) and v.is_floating_point() else v
        for k, v in arguments.items()
    }  # fmt: skip
    # The first gradients of the weights are subnormal.
    small["velocity"].zero_()
    wanted = trained(small, **how)
    assert torch.set_flush_denormal(True)
    try:
        got = trained(small, **how)
        assert float(tiny * 1) == 0
    finally:
        torch.set_flush_denormal(False)
    assert all(torch.equal(value, wanted[name]) for name, value in got.items())
