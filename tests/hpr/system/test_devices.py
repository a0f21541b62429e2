"""The choice of a device by its name, with and without PyTorch, and its expected speed."""

from __future__ import annotations

import ctypes
import importlib.util
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hpr.system import devices
from hpr.system.devices import Device, choose_device, training_rate


def cards(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(devices, "may_have_card", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:3"])
def test_cuda_without_cuda_says_so_and_what_to_do(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards(monkeypatch, 0)
    with pytest.raises(ValueError, match="sees no CUDA device") as refused:
        choose_device(name)
    assert f"{name}: PyTorch {torch.__version__} sees" in str(refused.value)
    assert str(refused.value).endswith("or use cpu")


@pytest.mark.parametrize(
    ("name", "count", "device"),
    [
        ("auto", 0, "cpu"),
        ("auto", 2, "cuda"),
        ("cpu", 2, "cpu"),
        ("cuda", 2, "cuda"),
        ("cuda:1", 2, "cuda:1"),
    ],
)
def test_a_name_is_the_device_that_pytorch_has_by_it(
    name: str, count: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards(monkeypatch, count)
    chosen = choose_device(name)
    assert str(chosen) == device
    same = torch.device(str(chosen))
    assert (same.type, same.index) == (chosen.type, chosen.index)


@pytest.mark.parametrize("name", ["cuda:2", "cuda:9999"])
def test_a_card_that_is_not_there_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cards(monkeypatch, 2)
    with pytest.raises(ValueError, match=f"^{name}: expected cuda:0 to cuda:1$"):
        choose_device(name)


@pytest.mark.parametrize(
    "name", ["", "tpu", "CUDA", "cuda:", "cuda:-1", "cuda:1x", "cuda:٣", "cuda:99999"]
)
def test_what_is_no_devices_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"^expected auto, cpu, cuda or cuda:N, got "):
        choose_device(name)


def test_the_version_is_pytorchs_own_though_it_is_not_imported() -> None:
    assert devices._torch() == (torch.__version__, torch.version.cuda)
    program = "import sys\nfrom hpr.system.devices import _torch\n_torch()\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_pytorch_is_asked_only_where_it_and_the_driver_say_maybe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded: list[str] = []
    here = False

    def load(name: str) -> Any:
        loaded.append(name)
        if not here:
            raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", load)
    for build, driver, maybe in (
        (None, True, False),
        ("12.8", False, False),
        ("12.8", True, True),
    ):
        here = driver
        monkeypatch.setattr(devices, "_torch", lambda build=build: ("2.13.0", build))
        assert devices.may_have_card() is maybe
    # The first build has no CUDA, so the driver was not looked for.
    assert loaded == [devices.DRIVER] * 2


def test_without_pytorch_there_is_no_card_and_a_plan_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert choose_device("auto") == Device("cpu")
    with pytest.raises(ValueError, match=r"PyTorch \(not installed\) sees no CUDA device"):
        choose_device("cuda")


def test_a_processors_rate_is_one_cores_times_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_core_rate", lambda: 1e10)
    rates = {}
    monkeypatch.setattr(devices, "_alone", lambda *_: SimpleNamespace(available_cores=lambda: 4))
    for asked in ("1", "3", "64", "", "two"):
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
        rates[asked] = training_rate.__wrapped__(Device("cpu"))
    assert rates["1"] == pytest.approx(0.9e10)
    assert rates["3"] == pytest.approx(2.7e10)
    # The threads are limited to the cores of the process, including the quota of its control groups.
    assert rates["64"] == pytest.approx(3.6e10)
    assert 0.9e10 <= rates[""] == rates["two"] <= 3.61e10
