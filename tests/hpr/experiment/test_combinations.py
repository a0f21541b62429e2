"""What no network can have together is refused by name; each other cell or optimiser is another run."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from hpr.connectivity import Dale, Dense, LowRank
from hpr.experiment.cost import cost
from hpr.experiment.specification import RunSpec
from hpr.tasks import make_task

SPEC = RunSpec("2AF", LowRank(rank=30), seed=3)
NEW = ("cell", "bias", "noise", "optimizer", "weight_decay", "trained")


def test_defaults_are_no_part_of_the_key() -> None:
    assert not set(NEW) & set(SPEC.to_dict())
    assert SPEC.key == "a06cae4070d36a2b"


@pytest.mark.parametrize(
    "change",
    [
        {"cell": "gru"},
        {"activation": "tanh"},
        {"bias": True},
        {"noise": 0.1},
        {"optimizer": "adam"},
        {"weight_decay": 1e-4},
        {"trained": ("readout",)},
    ],
    ids=str,
)
def test_every_other_value_is_another_run_that_survives_json(change: dict[str, Any]) -> None:
    spec = replace(SPEC, **change)
    assert spec.key != SPEC.key
    assert RunSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert spec.shape != SPEC.shape


def test_the_order_of_trained_weights_makes_no_other_run() -> None:
    one, other = (
        replace(SPEC, trained=names) for names in (("readout", "input"), ["input", "readout"])
    )
    assert one == other
    assert one.key == other.key
    assert replace(SPEC, trained=("readout", "recurrent", "input")).key == SPEC.key


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cell": "lstm"}, r"cell: expected one of \('leaky', 'gru'\), got 'lstm'"),
        ({"optimizer": "rmsprop"}, r"optimizer: expected one of \('sgd', 'adam'\), got 'rmsprop'"),
        ({"bias": 1}, "bias: expected a bool, got 1"),
        ({"noise": -0.1}, r"noise: expected a number of at least 0, got -0\.1"),
        ({"noise": float("nan")}, "noise: expected a finite number, got nan"),
        ({"weight_decay": -1}, r"weight_decay: expected a number of at least 0, got -1\.0"),
        ({"trained": ()}, r"trained: expected some of .*, each once, got \(\)"),
        ({"trained": ("input", "input")}, "trained: expected some of .*, each once, got"),
        ({"trained": ("bias",)}, "trained: expected a list of items, each one of .*'bias'"),
        (
            {"model": "two_layer", "cell": "gru"},
            "cell: expected 'leaky' with two layers, got 'gru'",
        ),
        ({"model": "two_layer", "bias": True}, "bias: expected False with two layers, got True"),
        ({"model": "two_layer", "noise": 0.1}, "noise: expected 0.0 with two layers, got 0.1"),
        ({"model": "two_layer", "activation": "tanh"}, "activation: expected .* with two layers"),
        (
            {"model": "two_layer", "trained": ("input",)},
            "trained: expected recurrent .* two layers",
        ),
        ({"cell": "gru", "activation": "tanh"}, "activation: expected none with a GRU, .* 'tanh'"),
        (
            {"cell": "gru", "connectivity": Dale(dale_throughout=True)},
            "dale_throughout: expected False with a GRU, .* got True",
        ),
        ({"cell": "gru", "aligned": "features"}, "aligned: expected None with a GRU, got features"),
        (
            {"teacher": replace(SPEC, keep_weights=True, cell="gru")},
            "teacher: expected leaky units without biases, got cell='gru', bias=False",
        ),
        (
            {"teacher": replace(SPEC, keep_weights=True, bias=True)},
            "teacher: expected leaky units without biases, got cell='leaky', bias=True",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_is_named_in_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        replace(SPEC, **{"connectivity": Dense(), **change})
    assert "\n" not in str(caught.value)


def test_what_can_be_is_taken() -> None:
    replace(SPEC, cell="gru", connectivity=Dale(), bias=True, noise=0.1, optimizer="adam")
    replace(SPEC, connectivity=Dale(dale_throughout=True), bias=True, noise=0.1, optimizer="adam")
    replace(SPEC, connectivity=Dense(), model="two_layer", optimizer="adam", trained=("readout",))


def test_costs() -> None:
    """A GRU has three times the products of the recurrent and input weights."""
    task = make_task("2AF")
    leaky, gru, noisy = (
        cost([replace(SPEC, **change)], task)
        for change in ({}, {"cell": "gru"}, {"cell": "leaky", "noise": 0.1})
    )
    assert gru.training_flops == pytest.approx(3 * leaky.training_flops, rel=0.01)
    assert gru.kernel_flops == pytest.approx(3 * leaky.kernel_flops, rel=0.01)
    assert gru.memory > 2 * leaky.memory
    assert leaky.training_flops < noisy.training_flops < 2.5 * leaky.training_flops
