"""Runs of every other kind of cell and optimiser, and their training."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import torch

from hpr.connectivity import Dale, LowRank
from hpr.experiment.record import identity as record_identity
from hpr.experiment.specification import RunSpec
from hpr.tasks import make_task
from hpr.training.loop import train_pack

CPU = torch.device("cpu")
SMALL = RunSpec(
    "2AF", LowRank(rank=2), seed=0, N=33, batch=32, iterations=110, trials=8, kernel_trials=4,
    checkpoints=2, keep_weights=True, cell="gru",
)  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "GRU": {},
    "GRU, Adam": {"bias": True, "optimizer": "adam", "noise": 0.1},
    "tanh": {"cell": "leaky", "activation": "tanh", "bias": True, "noise": 0.3},
    "tanh alone": {"cell": "leaky", "activation": "tanh"},
    "linear": {"cell": "leaky", "activation": "linear", "weight_decay": 0.01},
    "reservoir": {"cell": "leaky", "trained": ("readout",), "optimizer": "adam"},
    "Dale": {
        "cell": "leaky", "connectivity": Dale(dale_throughout=True), "optimizer": "adam", "learning_rate": 0.02,
    },
}  # fmt: skip


def runs_of(kind: str, **change: Any) -> list[RunSpec]:
    spec = replace(SMALL, **{**KINDS[kind], **change})
    if isinstance(spec.connectivity, Dale):
        return [replace(spec, seed=seed) for seed in range(3)]
    return [replace(spec, connectivity=LowRank(rank=1 + i), seed=i // 2) for i in range(3)]


def identity(record: dict[str, Any]) -> str:
    return json.dumps(record_identity(record), sort_keys=True)


def train(runs: list[RunSpec], **options: Any) -> list[dict[str, Any]]:
    return train_pack(runs, make_task("2AF"), device=CPU, **options)
