"""Which implementation serves a tensor."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from hpr_kernels.backend import VARIABLE, check_precision, uses_triton


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
    """And serves fp32 alone."""
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
