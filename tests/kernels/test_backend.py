"""These tests check which implementation serves a tensor."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses import FakeTensorMode

from hpr_kernels import backend
from hpr_kernels.backend import VARIABLE, check_precision, uses_triton
from hpr_kernels.native import library


@pytest.mark.parametrize("name", [None, "auto", "torch"])
def test_torch_serves_the_cpu(monkeypatch: pytest.MonkeyPatch, name: str | None) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    if name is not None:
        monkeypatch.setenv(VARIABLE, name)
    assert not uses_triton(torch.zeros(1))


def test_bad_backend_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "cuda")
    with pytest.raises(ValueError, match=r"HPR_KERNELS_BACKEND: expected one of .*, got 'cuda'"):
        uses_triton(torch.zeros(1))


def test_bad_precision_is_named() -> None:
    with pytest.raises(ValueError, match=r"precision: expected one of .*, got 'fp8'"):
        check_precision("fp8")


def test_interpreter_after_triton_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setenv(VARIABLE, "interpret")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(RuntimeError, match="set before triton is imported"):
        uses_triton(torch.zeros(1))


def test_interpreter_is_set_up_by_the_import(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter serves fp32 alone."""
    pytest.importorskip("triton")
    monkeypatch.setenv(VARIABLE, "interpret")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    probe = (
        "import torch, hpr_kernels.backend as b, triton;"
        "print(triton.knobs.runtime.interpret, b.uses_triton(torch.zeros(1)),"
        " b.uses_triton(torch.zeros(1).double()))"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True", "False"]


@pytest.fixture
def on_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.Tensor]:
    """Yield a fake tensor whose device is a card; a test sets what the card answers."""
    monkeypatch.delenv(VARIABLE, raising=False)
    backend._triton_runs.cache_clear()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    with FakeTensorMode():
        yield torch.empty(1, device="cuda")
    backend._triton_runs.cache_clear()


def triton_of(version: str) -> SimpleNamespace:
    return SimpleNamespace(__version__=version)


@pytest.mark.parametrize("version", ["3.6.0", "3.7.1", "3.9.0+git1234"])
def test_triton_serves_cuda(
    monkeypatch: pytest.MonkeyPatch, on_cuda: torch.Tensor, version: str
) -> None:
    monkeypatch.setitem(sys.modules, "triton", triton_of(version))
    assert uses_triton(on_cuda)
    assert not uses_triton(on_cuda.double())


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (None, "expected Triton 3.6 or later, got .*triton"),
        (triton_of("3.5.1"), "expected Triton 3.6 or later, got 3.5.1"),
        (triton_of("2.10"), "expected Triton 3.6 or later, got 2.10"),
    ],
    ids=["missing", "old", "very old"],
)
def test_torch_serves_cuda_without_a_triton_that_runs_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, on_cuda: torch.Tensor, module: object, reason: str
) -> None:
    """On Windows, for example, torch comes without Triton."""
    monkeypatch.setitem(sys.modules, "triton", module)
    with pytest.warns(RuntimeWarning, match=f"hpr_kernels: torch serves CUDA: {reason}") as said:
        assert not uses_triton(on_cuda)
    assert len(said) == 1
    assert "\n" not in str(said[0].message)
    assert not uses_triton(on_cuda)


def test_torch_serves_cuda_where_triton_is_broken(
    monkeypatch: pytest.MonkeyPatch, on_cuda: torch.Tensor
) -> None:
    """An installation of which a part was removed raises exceptions of its own."""
    monkeypatch.setitem(sys.modules, "triton", SimpleNamespace())
    with pytest.warns(RuntimeWarning, match=r"expected Triton 3.6 or later, got .*__version__"):
        assert not uses_triton(on_cuda)


def test_torch_serves_an_older_card(monkeypatch: pytest.MonkeyPatch, on_cuda: torch.Tensor) -> None:
    monkeypatch.setitem(sys.modules, "triton", triton_of("3.7.1"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.warns(RuntimeWarning, match=r"capability 8.0 or later, got 7.5"):
        assert not uses_triton(on_cuda)


def test_a_triton_too_new_to_be_known_is_used_and_named(
    monkeypatch: pytest.MonkeyPatch, on_cuda: torch.Tensor
) -> None:
    monkeypatch.setitem(sys.modules, "triton", triton_of("4.0.0"))
    with pytest.warns(RuntimeWarning, match=r"expected Triton 3.6 to 3.9, .*, got 4.0.0"):
        assert uses_triton(on_cuda)
    assert uses_triton(on_cuda)


def test_the_asked_for_torch_asks_nothing_of_triton(
    monkeypatch: pytest.MonkeyPatch, on_cuda: torch.Tensor
) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.setenv(VARIABLE, "torch")
    assert not uses_triton(on_cuda)


def test_the_c_kernels_were_built_where_there_is_a_compiler() -> None:
    assert shutil.which("cc") is None or not library.obstacle()


def test_native_without_its_kernels_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "obstacle", lambda: "the installation has built no C kernels")
    numbers = torch.ones(2)
    monkeypatch.setenv(backend.VARIABLE, "auto")
    assert not backend.uses_native(numbers)
    monkeypatch.setenv(backend.VARIABLE, "native")
    with pytest.raises(
        RuntimeError, match=r"^HPR_KERNELS_BACKEND: expected C kernels, got none: the"
    ):
        backend.uses_native(numbers)


@pytest.mark.skipif(bool(library.obstacle()), reason=library.obstacle() or "-")
def test_what_the_c_kernels_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, expected in {"auto": True, "native": True, "triton": True, "torch": False}.items():
        monkeypatch.setenv(backend.VARIABLE, name)
        assert backend.uses_native(torch.ones(2)) == expected
        assert backend.uses_native(torch.ones(2, dtype=torch.float64)) == expected
        assert not backend.uses_native(torch.ones(2, dtype=torch.float16))
        assert not backend.uses_native(torch.ones(2, device="meta"))
