"""A pack of networks: the same shapes, each its own weights, trained together; and their initial weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from hpr.connectivity import SVD, Dale, Dense, Matrix
from hpr.runs import RunSpec
from hpr.tasks import Task
from hpr.tasks.student_teacher import StudentTeacher, Teacher
from hpr_kernels import leaky_rnn, leaky_rnn_ntk, two_layer_ntk
from hpr_kernels.internal import layout

Weights = dict[str, Tensor]  # "recurrent", "input", "readout" of one network


@dataclass
class Pack:
    """Weights of R networks.

    `weights` is [W_h W_x 0], [R, N, P] (see `hpr_kernels.layout`), or of two-layer networks W_1 alone,
    [R, N, N_in]. `signs` of presynaptic units that training must keep (Dale's law), zero in free networks.
    """

    weights: Tensor
    readout: Tensor  # [R, N_out, N]
    N_in: int
    signs: Tensor  # [R, N]

    @property
    def recurrent(self) -> Tensor:
        """W_h [R, N, N], a view; [R, N, 0] of two-layer networks."""
        return self.weights[..., : self._inputs]

    @property
    def input(self) -> Tensor:
        """W_x, or W_1 of two-layer networks, [R, N, N_in], a view."""
        return self.weights[..., self._inputs : self._inputs + self.N_in]

    @property
    def hidden(self) -> Tensor:
        """The weights whose structure and change are studied: W_h, or W_1 of two-layer networks; a view."""
        return self.recurrent if self._inputs else self.input

    @property
    def _inputs(self) -> int:
        """The column of `weights` where the input weights begin."""
        N, P = self.weights.shape[1:]
        return N if self.N_in < P else 0

    def select(self, networks: Sequence[int]) -> Pack:
        """A pack of copies of some of the networks."""
        index = list(networks)
        return Pack(self.weights[index], self.readout[index], self.N_in, self.signs[index])


def rates(pack: Pack, x: Tensor, spec: RunSpec) -> Tensor:
    """Rates of all steps, [R, T, B, N], on inputs x [R or 1, T, B, N_in]."""
    if spec.model == "leaky_rnn":
        return leaky_rnn(x, pack.recurrent, pack.input, spec.rho, spec.activation)
    h = x @ pack.input.mT[:, None]
    return h.relu() if spec.activation == "relu" else h


def tangent_kernel(pack: Pack, x: Tensor, spec: RunSpec, outputs: Literal["all", "last"]) -> Tensor:
    """The NTK of a pack of one network, [M, M], on inputs x [T, B, N_in]; rows (b, t, k).

    Under Dale's law kept throughout it is that with respect to the raw weights (see `hpr.step`), whose diagonal is no
    parameter.
    """
    if spec.model == "two_layer":
        groups: dict[str, Literal["hidden", "readout"]] = {
            "recurrent": "hidden", "readout": "readout",
        }  # fmt: skip
        return two_layer_ntk(
            x,
            hidden=pack.input,
            readout=pack.readout,
            parameters=[groups[name] for name in spec.ntk_parameters if name in groups],
            activation=spec.activation,
        )[0]
    return leaky_rnn_ntk(
        x[None],
        recurrent=pack.recurrent,
        input=pack.input,
        readout=pack.readout,
        rho=spec.rho,
        outputs=outputs,
        parameters=spec.ntk_parameters,
        activation=spec.activation,
        self_connections=not bool(pack.signs.any()),
    )[0]


def initial_pack(
    specs: Sequence[RunSpec],
    task: Task,
    device: torch.device,
    pretrained: Mapping[str, Weights] | None = None,
) -> Pack:
    """Draw each run's initial weights, in fp32; `pretrained`: the trained weights of their teachers, by key.

    Hidden weights come from the run's connectivity or from its teacher; input and readout weights are uniform within
    ±1/√fan_in (the paper's Appendix C.1, PyTorch's default for a linear layer), unless the specification says
    otherwise. Runs of one seed share all that they can share.
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
    return Pack(weights, readout, task.N_in, signs)


def _draw(
    spec: RunSpec, task: Task, pretrained: Mapping[str, Weights]
) -> tuple[Matrix, Matrix, Matrix]:
    N, N_in, N_out = spec.N, task.N_in, task.N_out
    streams = np.random.SeedSequence(spec.seed).spawn(3)
    first, second, third = (np.random.Generator(np.random.Philox(s)) for s in streams)
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
        hidden = aligned(teacher.features if features else teacher.directions(), hidden)
    return hidden, input, readout


def _signs(spec: RunSpec) -> np.ndarray:
    structure = spec.connectivity
    if isinstance(structure, Dale) and structure.dale_throughout:
        return structure.signs(spec.N)
    return np.zeros(spec.N)


def first_layer(structure: Dense, N: int, N_in: int, rng: np.random.Generator) -> Matrix:
    """W_1 [N, N_in] of a two-layer network: like the recurrent matrix, with the fan-in N_in for N (Figure 4).

    Entries are N(0, g²/N_in) or U(-g/√N_in, g/√N_in), truncated to a rank and rescaled to their Frobenius norm.
    """
    spread = structure.gain / N_in**0.5
    if structure.distribution == "uniform":
        dense = rng.uniform(-spread, spread, size=(N, N_in))
    else:
        dense = rng.normal(0.0, spread, size=(N, N_in))
    if not isinstance(structure, SVD):
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


def aligned(rows: Matrix, like: Matrix) -> Matrix:
    """[βᵀ 0 … 0] of Proposition 1, at the Frobenius norm of `like` [N, d]: the first units take the rows, one each."""
    if len(rows) > len(like):
        raise ValueError(f"N: expected at least {len(rows)} units, one a row, got {len(like)}")
    W = np.zeros_like(like)
    W[: len(rows)] = rows
    return W * (np.linalg.norm(like) / np.linalg.norm(rows))
