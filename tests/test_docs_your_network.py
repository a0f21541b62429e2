"""docs/your_network.md: its examples run alone and print what the page shows; what it says is refused, is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hpr_kernels import ntk

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "your_network.md"
TEXT = PAGE.read_text(encoding="utf-8")
# Of each section that has one: its title, the code, and what the code prints.
EXAMPLES = re.findall(
    r"^## ([^\n]*)\n(?:(?!## |```)[^\n]*\n)*```python\n(.*?)^```\n\n```text\n(.*?)^```",
    TEXT,
    re.M | re.S,
)
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]\d+)?")


def unit(shown: str) -> float:
    """Return the size of a number's last digit; none for a whole number, which is a count."""
    digits, _, power = shown.partition("e")
    _, point, decimals = digits.partition(".")
    return 10.0 ** (int(power or 0) - len(decimals)) if point else 0.0


def test_there_are_five_examples() -> None:
    assert len(EXAMPLES) == 5
    assert len(re.findall(r"^```python$", TEXT, re.M)) == 5
    listed = re.findall(r"^\d\. \[(.*?)\]", TEXT, re.M)
    assert listed == [title for title, _, _ in EXAMPLES]
    for _, code, _ in EXAMPLES:
        lines = [line for line in code.splitlines() if line and "import " not in line]
        assert len(lines) <= 25


@pytest.mark.parametrize(("title", "code", "shown"), EXAMPLES, ids=[e[0] for e in EXAMPLES])
def test_an_example_prints_what_the_page_shows(title: str, code: str, shown: str) -> None:
    """Up to a unit of the last digit of each number."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        # Threads that wait for each other are slow on a busy machine.
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")]),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert NUMBER.sub("#", done.stdout) == NUMBER.sub("#", shown), done.stdout
    for number, printed in zip(NUMBER.findall(shown), NUMBER.findall(done.stdout), strict=True):
        assert abs(float(printed) - float(number)) <= 1.01 * unit(number), done.stdout


class Applied(nn.Module):
    """A module whose forward pass is a function of it and its input."""

    def __init__(self, forward: Callable[[Applied, Tensor], object]) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(3))
        self.register_buffer("calls", torch.zeros(()))
        self.applied, self.listed = forward, [self.w]

    def forward(self, x: Tensor) -> object:
        return self.applied(self, x)


def counted(module: Applied, x: Tensor) -> Tensor:
    module.get_buffer("calls").add_(1)
    return x * module.w


REFUSED: dict[str, Any] = {
    "expected each example on its own, got BatchNorm1d '1' in training mode": nn.Sequential(
        nn.Linear(3, 4), nn.BatchNorm1d(4)
    ),
    "expected each example on its own, got other outputs in a batch of two": Applied(
        lambda module, x: (x - x.mean(0)) * module.w
    ),
    "expected no random numbers, got some drawn by": Applied(
        lambda module, x: F.dropout(x * module.w)
    ),
    "expected one that keeps its state": Applied(counted),
    "expected a tensor as its result, got dict": Applied(lambda module, x: {"y": x * module.w}),
    "expected a torch.nn.Module, got function": F.relu,
    "expected 'w' to be read where it is registered": Applied(
        lambda module, x: x * module.listed[0]
    ),
    "expected finite numbers, got": Applied(lambda module, x: x * module.w / 0),
}


def test_the_table_of_refusals_has_a_module_for_each_row() -> None:
    section = TEXT.split("## What is refused")[1]
    assert re.findall(r"^\| `([^`]*)` \|", section, re.M) == list(REFUSED)


@pytest.mark.parametrize("message", REFUSED)
def test_what_the_page_says_is_refused(message: str) -> None:
    module = REFUSED[message]
    state = module.state_dict() if isinstance(module, nn.Module) else {}
    before = {name: value.clone() for name, value in state.items()}
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        ntk(module, torch.randn(4, 3, generator=torch.Generator().manual_seed(0)))
    assert all(torch.equal(before[name], value) for name, value in state.items())
