"""The table of shapes in kernels/README.md has a row per public function, and each row is true."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import hpr_kernels

ROOT = Path(__file__).parents[1]
# These are the sizes of the axes in the table; a product of two axes is written side by side.
AXES = {
    "B": 2, "B1": 2, "T": 4, "T2": 4, "S": 4, "N": 7, "N_in": 6, "N_out": 3, "d": 6, "F": 8, "count": 1
}  # fmt: skip
SHAPE = re.compile(r"(\w+) \[([^\]]*)\]")


def shapes() -> dict[str, tuple[str, str]]:
    """Return the arguments and results of each public function in kernels/README.md."""
    text = (ROOT / "kernels" / "README.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+(?:\.\w+)?)` \| (.*?) ?\| (.*?) ?\|$", text, re.M)
    return {name: (arguments, result) for name, arguments, result in rows}


def test_the_table_of_shapes_names_every_public_function() -> None:
    methods = {
        f"{of.__name__}.{name}"
        for of in (hpr_kernels.FactoredJacobian, hpr_kernels.NTKOperator)
        for name, value in vars(of).items()
        if callable(value) and name[0] != "_"
    }
    assert set(shapes()) == {*hpr_kernels.__all__, *methods}


def sized(axes: str, sizes: dict[str, int]) -> list[int]:
    """Return the sizes of axes as the table writes them, such as `M, N F`; `…` is an axis of the inputs of `ntk`."""
    named = [axis.replace("…", "d") for axis in axes.split(", ") if axis]
    return [math.prod(sizes[factor] for factor in axis.split()) for axis in named]


def tensors(name: str, sizes: dict[str, int]) -> dict[str, torch.Tensor]:
    """Return the tensors that a function takes, of the shapes in the table."""
    generator = torch.Generator().manual_seed(0)
    return {
        key: torch.randn(sized(axes, sizes), generator=generator, dtype=torch.float64)
        for key, axes in SHAPE.findall(shapes()[name][0])
    }


@pytest.mark.parametrize("second", [False, True], ids=["x1 alone", "x1 and x2"])
@pytest.mark.parametrize(
    "name",
    sorted(
        {*shapes()}
        - {"FactoredJacobian", "FactoredJacobian.plan", "NTKOperator", "from_rnn", "ntk_plan"}
    ),
)
def test_the_table_of_shapes_is_right(name: str, second: bool) -> None:
    """Called with arguments of the shapes in the table, each function returns the shapes beside them."""
    B2 = 5 if second else AXES["B"]
    of, _, method = name.partition(".")
    module = torch.nn.Linear(AXES["d"], AXES["N_out"]).double()
    of_module = of in ("ntk", "ntk_alignment", "ntk_operator", "NTKOperator")
    one_step = of_module or name in ("linearize", "predict_mse", "two_layer_ntk")
    O = AXES["N_out"] * (1 if one_step else AXES["T"])
    sizes = {**AXES, "B2": B2, "O": O, "M": 2 * O, "M1": 2 * O, "M2": B2 * O}
    given: dict[str, Any] = tensors(name, sizes)
    if not second:
        for argument in ("x2", "K_test", "f_test"):
            given.pop(argument, None)
    if not one_step and "." not in name:
        given["rho"] = 0.4
    if name == "ntk_alignment":
        given |= {"before": module, "after": module}
    elif of_module and not method:
        given["module"] = module
    if name == "leaky_rnn_kernel_alignment":
        groups = ("recurrent", "input", "bias", "readout")
        weights = {group: given.pop(group) for group in groups}
        given |= {"before": weights, "after": {group: 2 * W for group, W in weights.items()}}
    function = getattr(hpr_kernels, of)
    if name == "linearize":
        function = hpr_kernels.linearize(torch.nn.Linear(AXES["d"], AXES["d"]).double())
    if name == "predict_mse":
        # A kernel is positive semidefinite.
        given["K_train"] = given["K_train"] @ given["K_train"].mT
    if of == "NTKOperator":
        inputs = tensors("ntk_operator", sizes)
        if not second or method in ("trace", "leading_eigenvalues", "leading_eigenvectors"):
            inputs.pop("x2")
        function = getattr(hpr_kernels.ntk_operator(module, **inputs), method)
    elif method:
        function = getattr(function(**tensors(of, sizes)), method)
        if method == "gram" and second:
            given["other"] = hpr_kernels.FactoredJacobian(**tensors(of, {**sizes, "B": B2}))
    results = re.findall(r"(?:(full|diagonal|trace) )?\[([^\]]*)\]", shapes()[name][1])
    for place, (reduce, axes) in enumerate(results):
        got = function(**given, **({"reduce": reduce} if reduce else {}))
        got = got[place] if isinstance(got, tuple) else got
        if name == "predict_mse" and place == 1 and not second:
            assert got is None
            continue
        assert list(got.shape) == sized(axes, sizes), reduce


def test_the_weights_of_a_module_have_the_shapes_in_the_table() -> None:
    given = hpr_kernels.from_rnn(torch.nn.RNN(AXES["N_in"], AXES["N"]))
    wanted = {name: sized(axes, AXES) for name, axes in SHAPE.findall(shapes()["from_rnn"][1])}
    assert {
        name: list(W.shape) for name, W in given.items() if isinstance(W, torch.Tensor)
    } == wanted
