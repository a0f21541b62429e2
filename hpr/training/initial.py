"""The initial weights of a pack (Appendix C.1), and weights aligned with a teacher (Proposition 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from hpr.connectivity import Dale, Dense, LowRank, Matrix
from hpr.experiment.specification import RunSpec
from hpr.tasks import Task
from hpr.tasks.student_teacher import StudentTeacher, Teacher
from hpr.training.pack import Pack, Weights
from hpr_kernels.internal import layout


def initial_pack(
    specs: Sequence[RunSpec],
    task: Task,
    device: torch.device,
    pretrained: Mapping[str, Weights] | None = None,
) -> Pack:
    """Draw each run's initial weights, in fp32.

    Hidden weights come from the run's connectivity or from its teacher, whose trained weights are in `pretrained` by
    key. Input and readout weights are uniform within ±1/√fan_in (the paper's Appendix C.1, PyTorch's default for a
    linear layer), unless the specification says otherwise. So are both matrices of a GRU's gates; its candidate state
    has the hidden and input weights of a leaky network. Biases are zero. Runs of one seed draw from the same random
    streams.
    """
    two_layer = specs[0].model == "two_layer"
    if two_layer and task.T != 1:
        raise ValueError(f"model: expected a leaky RNN for the {task.T} steps of {task.name}")
    drawn = [_draw(spec, task, pretrained or {}) for spec in specs]
    hidden, input, readout = (
        torch.stack([torch.from_numpy(weights[i]) for weights in drawn]).float().to(device)
        for i in range(3)
    )
    weights = hidden if two_layer else layout.join(hidden, input)
    signs = torch.from_numpy(np.stack([_signs(spec) for spec in specs])).float().to(device)
    bias = None
    if specs[0].bias:
        of_one = (2, 3 * specs[0].N) if specs[0].cell == "gru" else (specs[0].N,)
        bias = readout.new_zeros(len(specs), *of_one)
    return Pack(weights, readout, task.N_in, signs, bias)


def _draw(
    spec: RunSpec, task: Task, pretrained: Mapping[str, Weights]
) -> tuple[Matrix, Matrix, Matrix]:
    N, N_in, N_out = spec.N, task.N_in, task.N_out
    streams = np.random.SeedSequence(spec.seed).spawn(4)
    first, second, third, fourth = (np.random.Generator(np.random.Philox(s)) for s in streams)
    if spec.model == "two_layer":
        assert isinstance(spec.connectivity, Dense)
        hidden = first_layer(spec.connectivity, N, N_in, first)
    else:
        hidden = spec.connectivity.draw(N, spec.seed)
    input = second.uniform(-(N_in**-0.5), N_in**-0.5, size=(N, N_in))
    if spec.readout_deviation is None:
        readout = third.uniform(-(N**-0.5), N**-0.5, size=(N_out, N))
    else:
        readout = third.normal(0.0, spec.readout_deviation, size=(N_out, N))
    teacher = None
    if spec.teacher is not None:
        if spec.teacher.key not in pretrained:
            raise ValueError(f"pretrained: expected the weights of {spec.teacher}")
        weights = pretrained[spec.teacher.key]
        trained = {name: value.double().cpu().numpy() for name, value in weights.items()}
        input = trained["input"]
        teacher = Teacher(trained["recurrent"], trained["readout"])
    elif isinstance(task, StudentTeacher):
        teacher = task.teacher(spec.seed)
    if spec.aligned is not None:
        if teacher is None:
            raise ValueError(f"aligned: expected a teacher, got {task.name}, which has none")
        if spec.aligned.startswith("dominant"):
            teacher = teacher.dominant()
        features = spec.aligned.endswith("features")
        hidden = embedded(teacher.features if features else teacher.directions(), hidden)
    if spec.cell == "gru":
        of_state, of_input = (
            fourth.uniform(-(width**-0.5), width**-0.5, size=(2 * N, width)) for width in (N, N_in)
        )
        hidden, input = np.concatenate([of_state, hidden]), np.concatenate([of_input, input])
    return hidden, input, readout


def _signs(spec: RunSpec) -> np.ndarray:
    structure = spec.connectivity
    if isinstance(structure, Dale) and structure.dale_throughout:
        return structure.signs(spec.N)
    return np.zeros(spec.N)


def first_layer(structure: Dense, N: int, N_in: int, rng: np.random.Generator) -> Matrix:
    """W_1 [N, N_in] of a two-layer network, drawn like a recurrent matrix with the fan-in N_in instead of N (Figure 4).

    Entries are N(0, g²/N_in) or U(-g/√N_in, g/√N_in), truncated to a rank and rescaled to their Frobenius norm.
    """
    spread = structure.g / N_in**0.5
    if structure.distribution == "uniform":
        dense = rng.uniform(-spread, spread, size=(N, N_in))
    else:
        dense = rng.normal(0.0, spread, size=(N, N_in))
    if not isinstance(structure, LowRank):
        return dense
    rank = structure.rank
    if rank > min(N, N_in) or structure.rescale != "frobenius":
        raise ValueError(
            f"connectivity: expected a rank of at most {min(N, N_in)}, rescaled by the Frobenius norm, "
            f"got {structure}"
        )
    left, values, right = np.linalg.svd(dense, full_matrices=False)
    truncated = (left[:, :rank] * values[:rank]) @ right[:rank]
    return truncated * (np.linalg.norm(dense) / np.linalg.norm(truncated))


def embedded(rows: Matrix, like: Matrix) -> Matrix:
    """[βᵀ 0 … 0] of Proposition 1 at the Frobenius norm of `like` [N, d]: each of the first units takes one row."""
    if len(rows) > len(like):
        raise ValueError(f"N: expected at least {len(rows)} units, one a row, got {len(like)}")
    W = np.zeros_like(like)
    W[: len(rows)] = rows
    return W * (np.linalg.norm(like) / np.linalg.norm(rows))
