"""A tangent kernel by the C kernels has the same bits on any number of threads and by every instruction set."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import pytest
import torch
from test_gram_native import instruction_sets

from hpr_kernels import leaky_rnn_kernel_alignment, leaky_rnn_ntk
from hpr_kernels.checks import steps
from hpr_kernels.compiled import PAPER_SIZES, PaperSize
from hpr_kernels.gram import contraction_plan
from hpr_kernels.gram.contraction_plan import ContractionShape
from hpr_kernels.native import library
from hpr_kernels.testing import random_network

pytestmark = pytest.mark.skipif(bool(library.obstacle()), reason=library.obstacle() or "-")


def digest() -> str:
    """A hash of the whole path: rates, adjoints, contraction and readout, and of the alignment of two kernels.

    fp32 and fp64, all outputs and the last ones; with and without self-connections.
    """
    found = hashlib.sha256()
    for dtype in (torch.float32, torch.float64):
        generator = torch.Generator().manual_seed(1)
        net, other = (random_network(generator, N=150, T=8, B=6, dtype=dtype) for _ in range(2))
        before, after = (
            {"recurrent": n.recurrent, "input": n.input, "readout": n.readout} for n in (net, other)
        )
        for outputs, own in (("all", True), ("last", True), ("all", False)):
            options = {"outputs": outputs, "order": "propagate", "self_connections": own}
            K = leaky_rnn_ntk(net.x, **before, rho=0.9, **options)
            aligned = leaky_rnn_kernel_alignment(
                net.x, before=before, after=after, rho=0.9, **options
            )
            found.update(K.contiguous().numpy().tobytes())
            found.update(aligned.numpy().tobytes())
    return found.hexdigest()


@pytest.mark.parametrize("isa", instruction_sets())
def test_a_kernel_has_the_same_bits_by_every_instruction_set(isa: str) -> None:
    # The build for CPUs without fused multiply-adds serves nobody unless it is told to.
    code = (
        "from hpr_kernels.native import library; library.obstacle = lambda: ''; "
        "import test_bits_kernel; print(library.isa(), test_bits_kernel.digest())"
    )
    environment = {
        **os.environ,
        library.VARIABLE: isa,
        "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *filter(None, sys.path)]),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [isa, digest()]


def test_a_kernel_has_the_same_bits_on_two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    before, alone = torch.get_num_threads(), digest()
    monkeypatch.setattr("hpr_kernels.workers._cores", lambda: 2)
    torch.set_num_threads(2)
    try:
        assert digest() == alone
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("size", PAPER_SIZES)
@pytest.mark.parametrize("isa", ["avx512", "avx2", "neon"])
def test_the_papers_kernels_have_one_order_on_every_cpu(
    isa: str, size: PaperSize, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contraction_plan, "isa", lambda: isa)
    reach = tuple(t for t in steps(size.outputs, size.T) for _ in range(size.N_out))
    for B in (8, size.B, 200):
        shape = ContractionShape(
            B, B, reach, reach, size.T, size.T, size.N, size.N + size.N_in, 4,
            symmetric=True, threads=1, native=True,
        )  # fmt: skip
        plan = contraction_plan.make_plan(shape, "auto", contraction_plan.MEMORY_BUDGET)
        assert plan.order == "propagate"
