"""Tasks on several cores: the same numbers as on one, torch's own threads left as they were, exceptions seen."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from hpr_kernels import FactoredJacobian, workers
from hpr_kernels.native import library
from hpr_kernels.workers import each, torch_on_one_thread


@pytest.fixture(params=[2, 3], ids=["two threads", "three threads"])
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    before = torch.get_num_threads()
    monkeypatch.setattr(workers, "_cores", lambda: 8)
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("order", ["hadamard", "propagate"])
def test_any_number_of_threads_gives_the_same_bits(
    rng: torch.Generator, threads: int, order: str
) -> None:
    J = FactoredJacobian(
        torch.randn(20, 7, 5, 33, generator=rng), torch.randn(20, 5, 9, generator=rng)
    )
    several = J.gram(order=order)
    torch.set_num_threads(1)
    assert torch.equal(several, J.gram(order=order))


def test_a_task_has_one_thread_and_the_caller_keeps_its_own(threads: int) -> None:
    seen = []

    def task(item: int) -> None:
        # The second operation is the one that torch's default for new threads would reach.
        torch.ones(1 << 16).add_(1)
        seen.append((torch.get_num_threads(), torch.is_grad_enabled()))

    each(task, range(20))
    assert seen == [(1, False)] * 20
    assert torch.get_num_threads() == threads
    assert torch.is_grad_enabled()


def test_the_caller_keeps_its_threads_where_there_are_fewer_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = torch.get_num_threads()
    monkeypatch.setattr(workers, "_cores", lambda: 5)
    workers._pool.cache_clear()
    torch.set_num_threads(7)
    try:
        each(lambda item: None, range(20))
        assert torch.get_num_threads() == 7
    finally:
        torch.set_num_threads(before)


def test_an_exception_of_a_task_is_raised(threads: int) -> None:
    def task(item: int) -> None:
        if item == 3:
            raise ValueError("three")

    with pytest.raises(ValueError, match="three"):
        each(task, range(8))
    each(task, range(3))


def test_inference_mode_reaches_no_task(rng: torch.Generator, threads: int) -> None:
    J = FactoredJacobian(
        torch.randn(9, 4, 3, 5, generator=rng), torch.randn(9, 3, 2, generator=rng)
    )
    with torch.inference_mode():
        K = J.gram(order="propagate")
    assert torch.equal(K, J.gram(order="propagate"))


@pytest.mark.skipif(bool(library.obstacle()), reason=library.obstacle() or "-")
def test_torch_has_one_thread_for_a_while(threads: int) -> None:
    x, device = torch.ones(1), torch.device("cpu")

    def nested() -> None:
        with torch_on_one_thread(x):
            with torch_on_one_thread(x):
                assert (torch.get_num_threads(), workers.threads(device)) == (1, threads)
            assert (torch.get_num_threads(), workers.threads(device)) == (1, threads)
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        nested()
    assert (torch.get_num_threads(), workers.threads(device)) == (threads, threads)
    for served_by_torch in (x.half(), None):
        with torch_on_one_thread(served_by_torch):
            assert torch.get_num_threads() == threads


@pytest.mark.skipif(bool(library.obstacle()), reason=library.obstacle() or "-")
def test_other_threads_keep_torchs_number(threads: int) -> None:
    with torch_on_one_thread(torch.ones(1)), ThreadPoolExecutor(1) as other:
        # Torch takes its number for this thread now.
        assert other.submit(torch.get_num_threads).result() == threads


def test_an_interrupt_waits_for_the_tasks_that_have_begun(threads: int) -> None:
    begun, ended = [], []

    def task(item: int) -> None:
        begun.append(item)
        if item == 0:
            raise KeyboardInterrupt
        time.sleep(0.2)
        ended.append(item)

    with pytest.raises(KeyboardInterrupt):
        each(task, range(100))
    assert sorted(begun[1:]) == sorted(ended)
    assert len(begun) < 100


@pytest.mark.parametrize(("torch_has", "cores", "used"), [(8, 2, 2), (2, 8, 2), (1, 8, 1)])
def test_no_more_tasks_than_cores_for_this_process(
    monkeypatch: pytest.MonkeyPatch, torch_has: int, cores: int, used: int
) -> None:
    """As where a control group has a quota of two cores and torch a thread for each of the machine's."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: torch_has)
    monkeypatch.setattr(workers, "_cores", lambda: cores)
    assert workers.threads(torch.device("cpu")) == used
    assert workers.threads(torch.device("cuda")) == 1
