"""What a type checker says of calls of the public functions: a choice that does not exist is an error, at that line."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

KERNELS = Path(__file__).parents[2] / "kernels"

HEAD = """
from torch import Tensor
from torch.nn import Module

from hpr_kernels import (
    FactoredJacobian,
    leaky_rnn,
    leaky_rnn_adjoints,
    leaky_rnn_kernel_alignment,
    leaky_rnn_ntk,
    leaky_rnn_ntk_operator,
    ntk_alignment,
    ntk_operator,
    two_layer_ntk,
)
from hpr_kernels.loss import readout_cross_entropy, readout_squared_error
from hpr_kernels.update import momentum_step


def calls(t: Tensor, i: Tensor, m: Module) -> None:
"""
CALLS = {
    "leaky_rnn(t, recurrent=t, input=t, rho=0.5, {})": ("activation", "precision"),
    "leaky_rnn_adjoints(t, recurrent=t, readout=t, rho=0.5, {})": (
        "activation",
        "precision",
        "outputs",
    ),
    "leaky_rnn_ntk(t, recurrent=t, input=t, readout=t, rho=0.5, {})": (
        "activation",
        "precision",
        "outputs",
        "parameters",
        "reduce",
        "order",
        "progress",
    ),
    "leaky_rnn_kernel_alignment(t, before={{}}, after={{}}, rho=0.5, {})": (
        "activation",
        "precision",
        "outputs",
        "parameters",
        "order",
        "progress",
    ),
    "leaky_rnn_ntk_operator(t, recurrent=t, input=t, readout=t, rho=0.5, {})": (
        "activation",
        "precision",
        "outputs",
        "parameters",
    ),
    "ntk_operator(m, t).matvec(t, {})": ("progress",),
    "ntk_alignment(m, m, t, {})": ("order", "progress"),
    "two_layer_ntk(t, hidden=t, readout=t, {})": (
        "activation",
        "precision",
        "reduce",
        "order",
        "progress",
    ),
    "FactoredJacobian(t, t).gram({})": ("precision", "reduce", "order"),
    "FactoredJacobian(t, t).plan({})": ("reduce", "order"),
    "readout_cross_entropy(t, t, i, t, {})": ("precision",),
    "readout_squared_error(t, t, t, t, {})": ("precision",),
    "momentum_step(t, t, t, t, scale=1, learning_rate=1, momentum=0, {})": ("precision",),
}
# Every value that is right, and one that is wrong.
RIGHT = {
    "activation": ("'relu'", "'tanh'", "'linear'"),
    "precision": ("'ieee'", "'tf32x3'", "'tf32'"),
    "outputs": ("'all'", "'last'", "[0, 2]"),
    "parameters": ("None", "('recurrent',)", "['input', 'bias', 'readout']"),
    "reduce": ("'full'", "'trace'", "'diagonal'"),
    "order": ("'auto'", "'hadamard'", "'propagate'", "'dense'"),
    "progress": ("None", "lambda done, total: None"),
}
WRONG = {
    "activation": "'relus'",
    "precision": "'bf16'",
    "outputs": "'lasts'",
    "parameters": "('recurrents',)",
    "reduce": "'traces'",
    "order": "'best'",
    "progress": "lambda done: None",
}
# Weights go by keyword, and torch's own argument is no argument here.
REFUSED = ("leaky_rnn(t, t, t, 0.5)", "leaky_rnn(t, recurrent=t, input=t, rho=0.5, hx=t)")

CONFIGURATION = f"""
[mypy]
mypy_path = {KERNELS}
explicit_package_bases = true
namespace_packages = true
follow_imports = silent
[mypy-torch.*]
follow_imports = skip
[mypy-triton.*]
ignore_missing_imports = true
"""


def test_a_choice_that_does_not_exist_fails_type_checking(tmp_path: Path) -> None:
    """torch itself is not read, which would take a minute: its tensors are of any type here."""
    lines = [(call, True) for call in REFUSED]
    for call, options in CALLS.items():
        for option in options:
            lines += [(call.format(f"{option}={value}"), False) for value in RIGHT[option]]
            lines.append((call.format(f"{option}={WRONG[option]}"), True))
    program = HEAD + "".join(f"    {call}\n" for call, _ in lines)
    (tmp_path / "calls.py").write_text(program, encoding="utf-8")
    (tmp_path / "mypy.ini").write_text(CONFIGURATION, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file=mypy.ini", "calls.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    first = program[: program.index("    leaky_rnn(")].count("\n") + 1
    wanted = {first + n for n, (_, refused) in enumerate(lines) if refused}
    told = re.findall(r"^(\S+?):(\d+): error: .*\[(arg-type|call-arg|misc)\]$", done.stdout, re.M)
    assert {int(line) for path, line, _ in told if path == "calls.py"} == wanted, done.stdout
    assert f"Found {len(told)} error" in done.stdout
