"""The methods of `peers ntk` give one kernel on small networks, in torch and as functions of arrays, and their rows."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from benchmarks.peers import ntk_environments, ntk_models, ntk_runs, ntk_stages, ntk_table
from benchmarks.peers.ntk_functions import FUNCTIONS, Operations
from benchmarks.peers.ntk_methods import METHODS
from benchmarks.peers.ntk_models import MODELS, GatedNetwork, Model
from benchmarks.suites.cases import NetworkShape
from hpr_kernels.testing import relative_error

SMALL = {
    "perceptron": ntk_models.perceptron(5, (7, 9, 8, 3)),
    "CNN": ntk_models.convolutional_network(5, (2, 3, 4, 5), 9, 3),
    "transformer": ntk_models.transformer(5, 6, layers=2, width=8, heads=2, hidden=12, outputs=3),
    "GRU": ntk_models.gated_network(5, 4, inputs=3, hidden=6, outputs=2),
    "embedding": ntk_models.bag_of_tokens(5, 4, 11, (6, 5, 3)),
    "all": ntk_models.leaky_network(NetworkShape(3, 5, 2, 3, "all", N=7)),
    "last": ntk_models.leaky_network(NetworkShape(3, 5, 2, 3, "last", N=7)),
    "hidden": ntk_models.leaky_network(NetworkShape(3, 5, 2, 3, "last", N=7, readout=False)),
}
EVERY_MODEL = pytest.mark.parametrize("model", SMALL.values(), ids=SMALL)
# torch.func.jvp imports decompositions that torch scripts, and some releases warn of scripting.
SCRIPTING = pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")


def by_torch_func(model: Model) -> torch.Tensor:
    """K in fp64 by one Jacobian of the whole batch."""
    module, x = model.drawn(torch.float64)
    weights = {name: value.detach() for name, value in module.named_parameters()}
    jacobians = torch.func.jacrev(
        lambda weights: torch.func.functional_call(module, weights, (x,)).flatten()
    )(weights)
    J = torch.cat([found.flatten(1) for found in jacobians.values()], 1)
    return J @ J.mT


@pytest.mark.parametrize(
    ("name", "method", "setting"),
    [
        (name, method, setting)
        for name, model in SMALL.items()
        for method in METHODS
        for setting in METHODS[method].settings
        if ntk_runs.applies(method, model) and method not in ("J Jᵀ alone", "curvlinops")
    ],
)
@SCRIPTING
def test_every_method_of_torch_has_the_same_kernel(
    name: str, method: str, setting: int | None
) -> None:
    model = SMALL[name]
    module, x = model.drawn(torch.float64)
    K = METHODS[method].prepare(module, x, setting)()
    assert not K.requires_grad
    assert relative_error(K, by_torch_func(model)) < 1e-10


@EVERY_MODEL
@SCRIPTING
def test_curvlinops_has_the_same_kernel(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ntk_environments.ROOT / ".venv-curvlinops"
    if not (folder / "packages.txt").exists():
        pytest.skip("curvlinops is installed by `python -m benchmarks peers ntk` on first use")
    monkeypatch.syspath_prepend(str(folder))
    module, x = model.drawn(torch.float64)
    for setting in (2, *METHODS["curvlinops"].settings):
        K = METHODS["curvlinops"].prepare(module, x, setting)()
        assert relative_error(K, by_torch_func(model)) < 1e-10


@EVERY_MODEL
def test_the_product_alone_is_of_the_jacobians_size(model: Model) -> None:
    module, x = model.drawn()
    K = METHODS["J Jᵀ alone"].prepare(module, x, None)()
    assert K.shape == (module(x).numel(),) * 2
    weights = sum(parameter.numel() for parameter in module.parameters())
    # The mean of a squared normal number is 1.
    assert float(K.diagonal().mean()) == pytest.approx(weights, rel=0.3)


def numpy_operations() -> Operations:
    """The operations that a network needs, of numpy and of torch on numpy's arrays."""

    def by_torch(function: Any) -> Any:
        return lambda x: function(torch.from_numpy(np.ascontiguousarray(x))).numpy()

    def convolve(x: Any, weight: Any, stride: int) -> Any:
        images, weights = torch.from_numpy(x), torch.from_numpy(weight)
        return F.conv2d(images, weights, stride=stride, padding=1).numpy()

    return Operations(
        np,
        by_torch(torch.relu),
        by_torch(F.gelu),
        by_torch(torch.sigmoid),
        by_torch(lambda x: x.softmax(-1)),
        convolve,
    )


@EVERY_MODEL
def test_the_functions_of_arrays_are_the_modules(model: Model, tmp_path: Path) -> None:
    """They take what the script of jax is given."""
    path = str(tmp_path / "given.npz")
    ntk_runs.export(model, path, torch.float64)
    given = dict(np.load(path))
    x, about = given.pop("x"), json.loads(str(given.pop("about")))
    found = FUNCTIONS[about["function"]](numpy_operations(), given, x, **about["settings"])
    module, inputs = model.drawn(torch.float64)
    expected = module(inputs).detach()
    assert found.shape == expected.shape
    assert relative_error(torch.from_numpy(found), expected) < 1e-12


def test_the_composed_gru_is_that_of_torch() -> None:
    module, x = SMALL["GRU"].drawn(torch.float64)
    assert isinstance(module, GatedNetwork)
    composed = module(x).detach()
    module.composed = False
    assert relative_error(module(x).detach(), composed) < 1e-12


def test_numbers_are_the_same_at_every_call_and_no_generator_moves() -> None:
    before = torch.get_rng_state()
    for model in SMALL.values():
        (module, x), (again, y) = model.drawn(), model.drawn(torch.float64)
        assert torch.equal(x.to(y.dtype), y)
        for one, other in zip(module.parameters(), again.parameters(), strict=True):
            assert torch.equal(one.double(), other)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "outputs", "weights"),
    [
        ("perceptron", 640, 784 * 1024 + 1024 + 1024 * 1024 + 1024 + 10 * 1024 + 10),
        ("CNN", 160, 3 * 32 * 9 + 32 + 32 * 64 * 9 + 64 + 64 * 128 * 9 + 128 + 128 * 10 + 10),
        ("transformer", 160, 4 * (12 * 256**2 + 9 * 256 + 1024) + 512 + 2570),
        ("GRU", 160, 3 * 256 * (64 + 256 + 2) + 2570),
        ("embedding", 320, 20_000 * 128 + 128 * 256 + 256 + 2570),
        ("2AF", 768, 300 * (300 + 3 + 3)),
    ],
)
def test_the_models_are_of_the_stated_sizes(name: str, outputs: int, weights: int) -> None:
    module, x = MODELS[name].drawn()
    assert len(x) * module(x[:1]).numel() == outputs
    assert sum(parameter.numel() for parameter in module.parameters()) == weights


def test_a_kernel_of_too_many_rows_is_not_compared() -> None:
    assert ntk_runs.exact_kernel(MODELS["large"]) is None


def test_a_method_is_measured_in_a_process_of_its_own() -> None:
    model = SMALL["perceptron"]
    found = ntk_runs.attempt("tutorial Jacobians", model, repeats=2, limit=1e3)
    assert isinstance(found, ntk_runs.Measurement)
    assert found.forecast_from is None
    assert found.seconds > 0
    assert found.ratio is not None
    assert found.ratio > 0
    exact = ntk_runs.exact_kernel(model)
    assert exact is not None
    assert ntk_runs.error_of(found.kernel, exact) < 1e-5


def test_a_row_has_the_fastest_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    K = torch.eye(2)
    seconds = {1: 3.0, 4: 2.0, None: 2.5}

    def measure(_: str, setting: int | None, *others: Any) -> ntk_runs.Measurement:
        return ntk_runs.Measurement(seconds[setting], 2.0**20, 1.5, K)

    monkeypatch.setattr(ntk_runs, "measure_in_torch", measure)
    method = "torch.func Jacobians"
    found = ntk_runs.attempt(method, SMALL["GRU"], repeats=1, limit=1.0)
    assert ntk_table.measured_cells(method, found, found, K) == (
        "torch.func Jacobians, 4 at a time", "2000.0", "1.5", "0.0e+00", "1",
    )  # fmt: skip


def test_this_engine_is_measured_in_full_whatever_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits: dict[str, float] = {}

    def measure(method: str, _: int | None, __: Model, repeats: int, limit: float) -> Any:
        limits[method] = limit
        return ntk_runs.Measurement(1.0, 1.0, 1.0, torch.eye(2))

    monkeypatch.setattr(ntk_runs, "measure_in_torch", measure)
    for method in (ntk_runs.OURS, "tutorial Jacobians"):
        ntk_runs.attempt(method, SMALL["GRU"], repeats=1, limit=2.0)
    assert limits == {ntk_runs.OURS: math.inf, "tutorial Jacobians": 2.0}


def test_what_takes_too_long_has_a_forecast_in_its_row() -> None:
    model = SMALL["GRU"]
    found = ntk_runs.attempt("empirical-ntks' way", model, repeats=5, limit=1e-9)
    assert isinstance(found, ntk_runs.Measurement)
    assert found.forecast_from == 4
    assert found.kernel.shape == (8, 8)
    ours = found._replace(seconds=found.seconds / 2)
    exact = ntk_runs.exact_kernel(model)
    _, median, ratio, error, peak = ntk_table.measured_cells(
        "empirical-ntks' way", found, ours, exact
    )
    assert (median, ratio) == (f"≈ {found.seconds * 1e3:.1f}", "≈ 2.0")
    assert float(error) < 1e-5
    assert peak.startswith("≈ ")


def test_a_method_that_fails_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("expected to install x")

    monkeypatch.setattr(ntk_runs, "folder_of_curvlinops", fail)
    found = ntk_runs.attempt("curvlinops", SMALL["GRU"], repeats=1, limit=1.0)
    assert found == "failed: expected to install x"
    assert ntk_table.measured_cells("curvlinops", found, found, None) == (
        "curvlinops",
        found,
        "",
        "",
        "",
    )


@pytest.mark.parametrize(
    ("name", "method"),
    [("transformer", method) for method in ntk_runs.IN_JAX]
    # This one has a rule of its own for each operation.
    + [(name, "neural-tangents structured") for name in ("CNN", "GRU", "embedding", "all")],
)
def test_every_method_of_jax_has_the_same_kernel(name: str, method: str) -> None:
    folder = ntk_environments.ROOT / ".venv-neural-tangents"
    if not (folder / "packages.txt").exists():
        pytest.skip("jax is installed by `python -m benchmarks peers ntk` on first use")
    found = ntk_runs.attempt(method, SMALL[name], repeats=1, limit=1e3)
    assert isinstance(found, ntk_runs.Measurement), found
    assert ntk_runs.error_of(found.kernel, by_torch_func(SMALL[name])) < 1e-5


@pytest.mark.parametrize(
    ("cost", "expected"),
    [
        (lambda b: 3 * b + 2 * b**2, 3 * 16 + 2 * 16**2),
        # A cost that does not depend on b is taken for one in proportion to it.
        (lambda b: 5, 5 * 4),
        # One that grows faster than b² is taken for b².
        (lambda b: b**3, 4**3 * 4**2),
    ],
)
def test_a_forecast_has_a_linear_and_a_square_part(cost: Any, expected: float) -> None:
    assert ntk_stages.extrapolated({2: cost(2), 4: cost(4)}, 16) == pytest.approx(expected)


@pytest.mark.parametrize("most", ["time", "memory", "neither", "unlimited"])
def test_all_examples_are_called_where_the_first_few_allow(
    most: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[int] = []

    def call_of(b: int) -> ntk_stages.Call:
        def call() -> np.ndarray:
            called.append(b)
            return np.zeros(b)

        return call

    if most == "memory":
        monkeypatch.setattr(ntk_stages, "MOST_BYTES", -1)
    limit = {"time": 0.0, "unlimited": math.inf}.get(most, 1e9)
    found = ntk_stages.staged(call_of, 8, limit)
    expected = {"time": [1, 2, 2, 4, 4], "memory": [1, 2, 2, 4, 4], "unlimited": [1, 8]}
    assert called == expected.get(most, [1, 2, 2, 4, 4, 8])
    assert found.examples == len(found.kernel) == called[-1]


def test_timed_calls_stop_after_the_longest() -> None:
    assert ntk_stages.repeats_within(5, 0.1) == 5
    assert ntk_stages.repeats_within(5, 10.0) == 3
    assert ntk_stages.repeats_within(5, 100.0) == 1


def test_the_peak_is_what_was_held_at_once() -> None:
    """In a new process, whose peak is not that of the process that started it."""
    code = (
        "import numpy as np; from benchmarks.peers.ntk_stages import memory, rise;"
        "base = memory('VmRSS'); held = np.ones(2**24); del held; print(rise(base, np.ones(2**20)))"
    )
    held = np.ones(2**25)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0.9 * 2**27 < float(done.stdout) + 2**23 < min(1.1 * 2**27, held.nbytes)


def test_a_folder_of_other_versions_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "packages"
    folder.mkdir()
    ntk_environments._finish(folder, ("a==1", "b==2"))
    assert ntk_environments._complete(folder, ("a==1", "b==2"))
    assert not ntk_environments._complete(folder, ("a==1", "b==3"))
    assert not folder.exists()
