"""Which cells, activation functions, optimisers and trained weights of a run go together, and with its task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpr.connectivity import Dale

if TYPE_CHECKING:
    from hpr.experiment.specification import RunSpec
    from hpr.tasks import Task
    from hpr.tasks.base import Split


def check_combination(spec: RunSpec) -> None:
    """Refuse what no network can have together.

    Raises:
        ValueError: one line that begins with the field's name.
    """
    for name in ("noise", "weight_decay"):
        if not getattr(spec, name) >= 0:
            raise ValueError(
                f"{name}: expected a number of at least 0, got {getattr(spec, name)!r}"
            )
    if not spec.trained or len(set(spec.trained)) < len(spec.trained):
        raise ValueError(
            f"trained: expected some of recurrent, input and readout, each once, got {spec.trained!r}"
        )
    if spec.model == "two_layer":
        _check_two_layers(spec)
    if spec.cell == "gru":
        _check_gru(spec)
    if spec.teacher is not None and (spec.teacher.cell != "leaky" or spec.teacher.bias):
        # Teachers are described by their recurrent and readout weights alone.
        raise ValueError(
            f"teacher: expected leaky units without biases, "
            f"got cell={spec.teacher.cell!r}, bias={spec.teacher.bias}"
        )


def check_task(spec: RunSpec, task: Task) -> None:
    """Refuse what a run can't have with its task.

    Raises:
        ValueError: one line that begins with the field's name.
    """
    if spec.model == "two_layer" and task.T != 1:
        raise ValueError(f"model: expected a leaky RNN for the {task.T} steps of {task.name}")
    if task.loss == "mse" and spec.stop_accuracy is not None:
        raise ValueError(f"stop_accuracy: expected None for a regression, got {spec.stop_accuracy}")
    sizes: dict[str, tuple[Split, int]] = {
        "batch": ("train", spec.batch),
        "trials": ("evaluation", spec.trials),
    }
    for name, (split, size) in sizes.items():
        most = task.most(split)
        if most is not None and size > most:
            raise ValueError(
                f"{name}: expected at most {most}, the {split} trials of {task.name}, got {size}"
            )


def _check_two_layers(spec: RunSpec) -> None:
    for name, only in (("cell", "leaky"), ("bias", False), ("noise", 0.0)):
        if getattr(spec, name) != only:
            raise ValueError(
                f"{name}: expected {only!r} with two layers, got {getattr(spec, name)!r}"
            )
    if spec.activation == "tanh":
        raise ValueError("activation: expected 'relu' or 'linear' with two layers, got 'tanh'")
    if spec.trained == ("input",):
        raise ValueError(
            "trained: expected recurrent (W_1) or readout with two layers, got ('input',)"
        )


def _check_gru(spec: RunSpec) -> None:
    if spec.activation != "relu":
        raise ValueError(
            "activation: expected none with a GRU, which has its own (leave the default 'relu'), "
            f"got {spec.activation!r}"
        )
    if isinstance(spec.connectivity, Dale) and spec.connectivity.dale_throughout:
        raise ValueError(
            "dale_throughout: expected False with a GRU, whose gates have no sign per unit, got True"
        )
    for name in ("aligned", "teacher"):
        if getattr(spec, name) is not None:
            raise ValueError(f"{name}: expected None with a GRU, got {getattr(spec, name)}")
