"""A user's own structures are kept and read back once registered; others are refused by name before training."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from hpr import connectivity
from hpr.connectivity import KINDS, Connectivity, Dense, LowRank, Matrix, UnknownKind
from hpr.experiment.binding import bind
from hpr.experiment.execution import run_local
from hpr.experiment.specification import RunSpec
from hpr.experiment.store import Store
from hpr.sweeps.expansion import expand
from hpr.tasks import make_task
from hpr.training.loop import train_pack

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Ring(Connectivity):
    """Each unit of this ring is driven by its neighbours on one side."""

    kind: ClassVar[str] = "ring"
    width: int = 2
    profile: tuple[float, ...] = (1.0, 0.5)

    @property
    def label(self) -> str:
        return f"ring {self.width}"

    def weights(self, N: int, rng: np.random.Generator) -> Matrix:
        W = sum(a * np.roll(np.eye(N), i + 1, axis=1) for i, a in enumerate(self.profile))
        return self.gain * W + rng.normal(0, 0.01, (N, N))


@pytest.fixture(autouse=True)
def kinds() -> Iterator[None]:
    kept = dict(KINDS)
    yield
    KINDS.clear()
    KINDS.update(kept)


def spec_of(structure: Connectivity) -> RunSpec:
    return RunSpec("2AF", structure, seed=0, N=8, batch=2, iterations=2, trials=4, kernel_trials=2)


def test_a_registered_structure_trains_and_is_kept_and_read_back(tmp_path: Path) -> None:
    assert connectivity.register(Ring) is Ring
    task = make_task("2AF")
    store = Store(tmp_path)
    specs = [spec_of(Ring(width=w)) for w in (1, 2)]
    for _ in range(2):
        outcome = run_local(specs, store, lambda _: task, train_pack, CPU, lambda line: None)
        assert outcome.failures == {}
    record = store.load(outcome.runs[1])
    assert record is not None
    assert RunSpec.from_dict(record["spec"]) == outcome.runs[1]
    # Equal structures have one form, and so one key, here as well.
    assert spec_of(Ring(profile=[1, 0.5])).key == spec_of(Ring()).key  # type: ignore[arg-type]


SCRIPT = """
import sys
from dataclasses import dataclass
from typing import ClassVar
import numpy as np, torch
from hpr.connectivity import Connectivity, register
from hpr.experiment.execution import run_local
from hpr.experiment.plan import tasks
from hpr.experiment.specification import RunSpec
from hpr.experiment.store import Store
from hpr.training.loop import train_pack

@register
@dataclass(frozen=True)
class Diagonal(Connectivity):
    kind: ClassVar[str] = "diagonal"
    @property
    def label(self):
        return "diagonal"
    def weights(self, N, rng):
        return self.gain * np.eye(N)

spec = RunSpec("2AF", Diagonal(), seed=0, N=8, batch=2, iterations=2, trials=4, kernel_trials=2)
outcome = run_local([spec], Store(sys.argv[1]), tasks(), train_pack, torch.device("cpu"), print)
assert not outcome.failures, outcome.failures
"""


@pytest.mark.nightly
def test_from_outside_of_the_package(tmp_path: Path) -> None:
    """A script outside the package runs twice: the second time it finds the record."""
    script = tmp_path / "own.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    said = [
        subprocess.run(
            [sys.executable, str(script), str(tmp_path / "out")],
            env=environment, capture_output=True, text=True, check=True,
        ).stdout
        for _ in range(2)
    ]  # fmt: skip
    assert "0 already" in said[0]
    assert "1 already" in said[1]
    # This process does not know the kind: the record is whole, and the error says what is missing.
    [file] = (tmp_path / "out" / "runs").iterdir()
    with pytest.raises(
        UnknownKind, match=r"expected one of .* got 'diagonal'; hpr\.connectivity\.reg"
    ):
        RunSpec.from_dict(json.loads(file.read_text())["spec"])


def test_an_unregistered_structure_is_refused_before_anything_is_trained() -> None:
    with pytest.raises(
        UnknownKind, match=r"^connectivity: expected a kind among .* got Ring, which is not"
    ):
        spec_of(Ring())

    # A class that only inherits a registered kind is refused too.
    @dataclass(frozen=True)
    class Heir(LowRank):
        pass

    with pytest.raises(
        UnknownKind, match=r"got .*Heir, which is not registered; hpr\.connectivity\.reg"
    ):
        spec_of(Heir())


@dataclass(frozen=True)
class Liquid(Connectivity):
    kind: ClassVar[str] = "liquid"

    @abstractmethod
    def flow(self) -> None: ...


def own(name: str, kind: Any, **more: Any) -> type[Connectivity]:
    namespace = {"kind": kind, "__module__": __name__, "__qualname__": name, **more}
    return dataclass(frozen=True)(type(name, (Ring,), namespace))


REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "no class": (lambda: Ring(), TypeError, "structure: expected a subclass of Connectivity, got Ring("),
    "another class": (lambda: dict, TypeError, "structure: expected a subclass of Connectivity, got <class"),
    "abstract": (
        lambda: Liquid, ValueError, "structure Liquid: expected all of Connectivity's methods, got none of flow",
    ),
    "no dataclass": (
        lambda: type("Bare", (Ring,), {}), ValueError, "structure Bare: expected a dataclass(frozen=True)",
    ),
    "no equality": (
        lambda: dataclass(frozen=True, eq=False)(type("Same", (Ring,), {})),
        ValueError, "structure Same: expected a dataclass(frozen=True)",
    ),
    "a kind of its parent's": (
        lambda: dataclass(frozen=True)(type("Same", (Ring,), {"__module__": __name__})),
        ValueError, "structure Same: expected a kind of its own in lower-case",
    ),
    "no kind": (lambda: own("No", None), ValueError, "structure No: expected a kind of its own in lower-case"),
    "a path": (lambda: own("Path", "../x"), ValueError, "structure Path: expected a kind of its own in lower"),
    "a kind of the package's": (
        lambda: own("Mine", "svd"), ValueError, "structure Mine: expected a kind of its own, got 'svd' of LowRank",
    ),
    "an array for a field": (
        lambda: own("Big", "big", __annotations__={"W": np.ndarray}, W=None),
        ValueError, "structure Big: expected fields of int, float, bool, str, tuples of them or None, got W:",
    ),
    "two kinds of number": (
        lambda: own("Two", "two", __annotations__={"w": int | float}, w=1),
        ValueError, "structure Two: expected fields of int",
    ),
    "an unknown annotation": (
        lambda: own("Odd", "odd", __annotations__={"w": "Nowhere"}, w=1),
        ValueError, "Odd: expected annotations that can be resolved, got name 'Nowhere'",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_registered_is_refused_in_one_line(
    make: Callable[[], Any], error: type[Exception], message: str
) -> None:
    before = dict(KINDS)
    with pytest.raises(error, match=f"^{re.escape(message)}") as caught:
        connectivity.register(make())
    assert "\n" not in str(caught.value)
    assert before == KINDS


def test_a_class_that_is_defined_again_takes_the_place_of_the_old_one() -> None:
    first, second = own("Again", "again"), own("Again", "again")
    connectivity.register(first)
    old = spec_of(first())
    connectivity.register(second)
    assert RunSpec.from_dict(old.to_dict()) == spec_of(second())
    with pytest.raises(UnknownKind):
        spec_of(first())


def drawing(weights: Callable[[Any, int, np.random.Generator], Any]) -> RunSpec:
    cls = own("Drawn", "drawn", weights=weights)
    connectivity.register(cls)
    return spec_of(cls())


BAD_WEIGHTS: dict[str, tuple[Callable[..., Any], str]] = {
    "shape": (lambda self, N, rng: np.ones((N, N + 1)), "shape [N, N] = [8, 8], got [8, 9]"),
    "flat": (lambda self, N, rng: np.ones(N * N), "shape [N, N] = [8, 8], got [64]"),
    "NaN": (lambda self, N, rng: np.full((N, N), np.nan), "finite numbers, got 64 NaN or inf"),
    "infinite": (lambda self, N, rng: np.diag([np.inf] * N), "finite numbers, got 8 NaN or inf"),
    "complex": (lambda self, N, rng: np.eye(N) + 1j, "a NumPy array of real numbers, got array"),
    "objects": (lambda self, N, rng: np.eye(N).astype(object), "a NumPy array of real"),
    "a list": (lambda self, N, rng: np.eye(N).tolist(), "a NumPy array of real"),
    "a tensor": (lambda self, N, rng: torch.eye(N), "a NumPy array of real numbers, got tensor"),
    "nothing": (lambda self, N, rng: None, "a NumPy array of real numbers, got None"),
    "the global generator": (
        lambda self, N, rng: np.random.rand(N, N),  # noqa: NPY002
        "a function of the fields, N and the generator given, got others each time",
    ),
    "an unseeded generator": (
        lambda self, N, rng: np.random.default_rng().random((N, N)),
        "a function of the fields, N and the generator given, got others each time",
    ),
    "what the instance keeps": (
        lambda self, N, rng: self.__dict__.setdefault("hidden", np.random.default_rng().random((N, N))),
        "a function of the fields, N and the generator given, got others each time",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("weights", "message"), BAD_WEIGHTS.values(), ids=BAD_WEIGHTS)
def test_weights_that_are_none_are_refused_before_training(
    weights: Callable[..., Any], message: str, tmp_path: Path
) -> None:
    spec = drawing(weights)
    task, passed = make_task("2AF"), list[int]()

    def trained() -> None:
        train_pack([spec], task, device=CPU, progress=passed.append)

    for refused in (trained, lambda: bind(spec, task)):
        with pytest.raises(
            ValueError, match=f"^weights of drawn: expected {re.escape(message)}"
        ) as caught:
            refused()
        assert "\n" not in str(caught.value)
    assert passed == []


GOOD_WEIGHTS: dict[str, Callable[..., Any]] = {
    "fp32": lambda self, N, rng: rng.random((N, N)).astype(np.float32),
    "half": lambda self, N, rng: rng.random((N, N)).astype(np.float16),
    "integers": lambda self, N, rng: np.eye(N, dtype=np.int8),
    "a transpose": lambda self, N, rng: rng.random((N, N)).T,
    "backwards": lambda self, N, rng: rng.random((N, N))[::-1],
    "every other": lambda self, N, rng: rng.random((2 * N, N))[::2],
    "read-only": lambda self, N, rng: np.broadcast_to(rng.random(N), (N, N)),
}


@pytest.mark.parametrize("weights", GOOD_WEIGHTS.values(), ids=GOOD_WEIGHTS)
def test_any_array_of_real_numbers_will_do(weights: Callable[..., Any]) -> None:
    spec = drawing(weights)
    expected = spec.connectivity.weights(8, np.random.default_rng(0)).dtype
    W = spec.connectivity.draw(8, 0)
    assert (W.dtype, W.flags.c_contiguous, W.flags.writeable) == (np.float64, True, True)
    assert expected is not None
    task = make_task("2AF")
    [record] = train_pack([bind(spec, task)], task, device=CPU)
    assert record["status"] == "finished"


def test_a_changed_class_is_another_run_and_the_old_one_is_served_again(tmp_path: Path) -> None:
    store, task = Store(tmp_path), make_task("2AF")
    said: list[str] = []
    keys = []
    for scale in (1.0, 2.0, 1.0):
        # The class is defined anew under the same name, as in an edited module.
        spec = drawing(lambda self, N, rng, scale=scale: scale * np.eye(N))
        outcome = run_local([spec], store, lambda _: task, train_pack, CPU, said.append)
        assert outcome.failures == {}
        keys.append(outcome.runs[0].key)
    assert [line.split(" already")[0][-1] for line in said if "already" in line] == ["0", "0", "1"]
    assert keys[0] == keys[2] != keys[1]


def test_networks_of_own_weights_share_a_pack() -> None:
    connectivity.register(Ring)
    task = make_task("2AF")
    specs = [bind(spec_of(Ring(profile=(1.0, last))), task) for last in (0.5, 0.25)]
    assert None not in {spec.drawn for spec in specs}
    assert specs[0].drawn != specs[1].drawn
    assert specs[0].shape == specs[1].shape


def test_a_run_of_other_weights_is_not_trained() -> None:
    spec = replace(drawing(lambda self, N, rng: np.eye(N)), drawn="0" * 16)
    with pytest.raises(ValueError, match=r"^drawn: expected '[0-9a-f]{16}', what .* got '0000"):
        train_pack([spec], make_task("2AF"), device=CPU)


def test_a_draw_is_a_copy_of_what_a_structure_keeps() -> None:
    kept = np.eye(8)
    structure = drawing(lambda self, N, rng: kept).connectivity
    structure.draw(8, 0)[:] = 7
    np.testing.assert_array_equal(structure.draw(8, 0), np.eye(8))


def test_fields_that_do_not_give_the_structure_back_are_refused() -> None:
    """This structure changes its own field each time it is made."""

    def again(self: Any) -> None:
        Connectivity.__post_init__(self)
        object.__setattr__(self, "width", self.width + 1)

    cls = own("Growing", "growing", __post_init__=again)
    connectivity.register(cls)
    with pytest.raises(
        ValueError, match=r"^connectivity: expected a structure that its fields give back, got "
    ):
        spec_of(cls())


def test_a_label_is_a_str() -> None:
    cls = own("Mute", "mute", label=None)
    connectivity.register(cls)
    with pytest.raises(ValueError, match=r"^connectivity: expected a str for its label, got None"):
        spec_of(cls())


def test_own_dense_weights_are_not_those_of_two_layers() -> None:
    """A two-layer network draws its first layer by itself, so it would never use what a user's class draws."""

    @dataclass(frozen=True)
    class Sparse(Dense):
        kind: ClassVar[str] = "sparse"

    connectivity.register(Sparse)
    with pytest.raises(
        ValueError, match=r"^connectivity: expected a dense or low-rank one of two layers"
    ):
        replace(spec_of(Sparse()), model="two_layer")


@pytest.mark.parametrize(
    "error", [KeyError("x"), AssertionError("no"), SystemExit(3), ValueError("v")]
)
@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("weights", r"weights of ring: expected an array \[N, N\], got {}"),
        ("label", "connectivity: expected a str for its label, got {}"),
        ("__post_init__", "connectivity: expected a ring that can be made, got {}|^v$"),
    ],
)
def test_a_structure_that_fails_is_one_line(
    error: BaseException, method: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Any:
        raise error

    class Failing(Ring):
        kind: ClassVar[str] = "ring"

    monkeypatch.setattr(Failing, method, property(fail) if method == "label" else fail)
    connectivity.register(dataclass(frozen=True)(Failing))
    told = message.format(f"{type(error).__name__}: .*{error.args[0]}")
    with pytest.raises(ValueError, match=f"^{told}") as caught:
        expand({"task": "2AF", "connectivity": Failing, "N": 8})
    assert "\n" not in str(caught.value)
