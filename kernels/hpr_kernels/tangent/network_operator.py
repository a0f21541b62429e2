"""The tangent kernel of leaky recurrent networks as a linear operator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hpr_kernels import checks
from hpr_kernels.autocast import outside_autocast
from hpr_kernels.backend import DEFAULT_PRECISION
from hpr_kernels.gram import MEMORY_BUDGET
from hpr_kernels.layout import with_constant_input
from hpr_kernels.progress import Steps
from hpr_kernels.recurrence import dispatch, leaky_rnn_trace
from hpr_kernels.tangent import eager
from hpr_kernels.tangent.arguments import check_second, checked_inputs, checked_networks
from hpr_kernels.tangent.linear_operator import Gradients, NTKOperator
from hpr_kernels.tangent.network import NetworkPack


# Longer than 60 lines: the docstring is the public reference of all arguments.
@outside_autocast
def leaky_rnn_ntk_operator(
    x1: Tensor,
    x2: Tensor | None = None,
    *,
    recurrent: Tensor,
    input: Tensor,
    bias: Tensor | None = None,
    readout: Tensor | None,
    rho: float,
    outputs: checks.Outputs = "all",
    parameters: Sequence[checks.Group] | None = None,
    memory_budget: int = MEMORY_BUDGET,
    activation: checks.Activation = "relu",
    self_connections: bool = True,
    precision: checks.Precision = DEFAULT_PRECISION,
    batch_first: bool = False,
) -> NTKOperator:
    """The exact NTK of a leaky recurrent network as a linear operator: K of `leaky_rnn_ntk`, known by its products.

    With L = Σ_i u_i y_i, one reverse sweep gives g_s = ∂L/∂h_{s+1} of each example, and v = Jᵀ u is

        V_h = (1 - rho) Σ_s g_s ⊗ a_s,    V_x = (1 - rho) Σ_s g_s ⊗ x_s,
        V_b = (1 - rho) Σ_s g_s,          V_w = Σ_t u_t ⊗ a_{t+1},

    summed over the examples. Along v the outputs change by (J v)_t = w a'_{t+1} + V_w a_{t+1}, where a' = f'(h) ∘ h'
    and

        h'_{s+1} = rho h'_s + (1 - rho) (W_h a'_s + V_h a_s + V_x x_s + V_b),    h'_0 = 0.

    Args:
        x1: inputs [T, B1, N_in]; for a pack of R networks [R or 1, T, B1, N_in]. With `batch_first` [B1, T, N_in] or
            [R or 1, B1, T, N_in]. Not copied.
        x2: second inputs [T2, B2, N_in] (with `batch_first` [B2, T2, N_in], or packed), for K(x1, x2); None for the
            symmetric kernel K(x1, x1).
        recurrent, input, bias, readout, rho, outputs, parameters, activation, self_connections: as in `leaky_rnn_ntk`.
            The weights are not copied.
        memory_budget: bytes for the vectors over the parameters and for the states of the network. It sets how many
            vectors, and how many examples, a product takes at a time. One of each always goes, however large.
        precision: as in `leaky_rnn_ntk`, of the sweeps; the tangents and the products with g are torch's.
        batch_first: whether x1 and x2 have examples before steps, as in `torch.nn.RNN`.

    Returns:
        An operator of shape [M1, M2], M = B · len(steps) · N_out with rows ordered (b, t, k); [R, M1, M2] for a pack.

    Raises:
        ValueError, TypeError: as `leaky_rnn_ntk`.
    """
    memory_budget = checks.budget(memory_budget)
    weights = {"recurrent": recurrent, "input": input, "bias": bias, "readout": readout}
    networks = checked_networks(
        "x1", x1, weights, rho=rho, outputs=outputs, parameters=parameters, activation=activation,
        self_connections=self_connections, precision=precision, batch_first=batch_first,
    )  # fmt: skip
    if x2 is not None:
        check_second(x2, x1, networks, "full", batch_first)
    packed = x1.dim() == 4
    with torch.no_grad():
        left, right = (
            None if x is None else NetworkJacobian(
                networks, checked_inputs(name, x, batch_first).detach(), packed, memory_budget
            )
            for name, x in (("x1", x1), ("x2", x2))
        )  # fmt: skip
    assert left is not None
    return NTKOperator(left, right)


@dataclass(frozen=True, eq=False)
class NetworkJacobian:
    """The `Jacobian` of a pack of networks at the inputs x [R or 1, T, B, N_in]."""

    pack: NetworkPack
    x: Tensor
    packed: bool
    memory_budget: int

    @property
    def networks(self) -> int:
        """R."""
        return len(self.pack.recurrent)

    @property
    def rows(self) -> int:
        """B times the outputs of an example."""
        return self.examples * self.pack.count(self.x.shape[1])

    @property
    def examples(self) -> int:
        """B."""
        return self.x.shape[2]

    @property
    def columns(self) -> int:
        """How many vectors over the parameters fit in half of the memory budget."""
        weights = [W for W in self.pack.weights.values() if W is not None]
        size = sum(W.numel() * W.element_size() for W in weights)
        return max(1, self.memory_budget // 2 // size)

    @property
    def like(self) -> Tensor:
        """The inputs."""
        return self.x

    def pull(self, vectors: Tensor, steps: Steps) -> Gradients:
        """Jᵀ u: [k, R, N, F] by the joined hidden weights [W_h W_x b], and [k, R, N_out, N] by the readout."""
        pack, k = self.pack, vectors.shape[-1]
        R, N = pack.recurrent.shape[:2]
        hidden = self.x.new_zeros(k, R, N, N + pack.inputs_per_step(self.x))
        readout = self.x.new_zeros(k, R, pack.N_out, N)
        along = vectors.unflatten(1, (self.examples, -1, pack.N_out))  # [R, B, t, N_out, k]
        with torch.no_grad():
            for some in self._chunks():
                trace, weights, read = self._trace(some)
                rates = trace[:, [t + 1 for t in read], :, :N].transpose(1, 2)  # [R, b, t, N]
                for j in range(k):
                    u = along[:, some, ..., j]
                    if "readout" in pack.groups:
                        readout[j] += u.flatten(1, 2).mT @ rates.flatten(1, 2)
                    if pack.factored:
                        hidden[j] += self._swept(u, trace, weights, read)
                steps.step(some.stop - some.start)
            self._leave_out_constants(hidden)
        return {"hidden": hidden, "readout": readout}

    def push(self, gradients: Gradients, steps: Steps) -> Tensor:
        """J v by the recurrence of tangents."""
        pack, k = self.pack, len(gradients["hidden"])
        found = self.x.new_zeros(self.networks, self.rows, k)
        target = found.unflatten(1, (self.examples, -1, pack.N_out))
        with torch.no_grad():
            for some in self._chunks():
                trace, _, read = self._trace(some)
                for j in range(k):
                    v = gradients["hidden"][j], gradients["readout"][j]
                    target[:, some, ..., j] = self._tangents(trace, read, *v)
                steps.step(some.stop - some.start)
        return found

    def trace(self, steps: Steps) -> Tensor:
        """Tr J Jᵀ, from the kernel of one example at a time."""
        total = self.x.new_zeros(self.networks)
        with torch.no_grad():
            for x in self.x.split(1, dim=2):
                K = eager.kernel(self.pack, x, None, "trace", "auto", self.memory_budget)
                total += K[:, 0, 0]
                steps.step()
        return total

    def each(self) -> Iterator[NetworkJacobian]:
        """Each network as a pack of one."""
        for some, network in self.pack.networks(1):
            x = self.x if len(self.x) == 1 else self.x[some]
            yield NetworkJacobian(network, x, self.packed, self.memory_budget)

    def _chunks(self) -> Iterator[slice]:
        """The examples, as many at a time as fit in half of the memory budget."""
        pack, (T, B) = self.pack, self.x.shape[1:3]
        # The trace with its padding, the gradients by rates, and two passes of tangents; with a bias, joined inputs.
        inputs = pack.inputs_per_step(self.x) * (2 if pack.bias is None else 3)
        row = T * (5 * pack.recurrent.shape[-1] + inputs + pack.N_out + 16)
        size = self.networks * row * self.x.element_size()
        chunk = max(1, self.memory_budget // 2 // size)
        for start in range(0, B, chunk):
            yield slice(start, min(start + chunk, B))

    def _trace(self, some: slice) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        """The trace of some examples up to the last step that is read, the joined weights, and the steps."""
        pack, read = self.pack, checks.steps(self.pack.outputs, self.x.shape[1])
        x = self.x[:, : read[-1] + 1, some]
        joined = (x, pack.input)
        if pack.bias is not None:
            joined = with_constant_input(x, pack.input, pack.bias)
        trace, weights = leaky_rnn_trace(
            joined[0], pack.recurrent, joined[1], pack.rho, pack.activation, pack.precision
        )
        return trace, weights, read

    def _swept(self, u: Tensor, trace: Tensor, weights: Tensor, read: tuple[int, ...]) -> Tensor:
        """The gradient [R, N, F] of Σ u y by the joined hidden weights, u [R, b, t, N_out]."""
        pack = self.pack
        R, N = pack.recurrent.shape[:2]
        T, b = trace.shape[1] - 1, trace.shape[2]
        by_rates = u if pack.readout is None else u @ pack.readout[:, None]  # [R, b, t, N]
        g = dispatch.sweep_buffer(R, T, b, N, like=trace)
        g[:, list(read), :, :N] = by_rates.transpose(1, 2)
        dispatch.sweep(g, trace, weights, pack.rho, pack.activation, pack.precision)
        z = trace[:, :T, :, : N + pack.inputs_per_step(self.x)].flatten(1, 2)
        return (1 - pack.rho) * torch.bmm(g[..., :N].flatten(1, 2).mT, z)

    def _tangents(
        self, trace: Tensor, read: tuple[int, ...], hidden: Tensor, readout: Tensor
    ) -> Tensor:
        """J v [R, b, t, N_out] of v, by the joined hidden weights [R, N, F] and by the readout [R, N_out, N]."""
        pack = self.pack
        N, T = pack.recurrent.shape[-1], trace.shape[1] - 1
        z = trace[:, :T, :, : hidden.shape[-1]]
        drive = torch.bmm(z.flatten(1, 2), hidden.mT).unflatten(1, z.shape[1:3])  # [R, T, b, N]
        rates = trace[:, 1:, :, :N]
        h = torch.zeros_like(drive[:, 0])
        tangents = []
        for s in range(T):
            if s > 0:
                drive[:, s] += torch.bmm(
                    slope(rates[:, s - 1], pack.activation) * h, pack.recurrent.mT
                )
            h = pack.rho * h + (1 - pack.rho) * drive[:, s]
            if s in read:
                tangents.append(slope(rates[:, s], pack.activation) * h)
        found = torch.stack(tangents, dim=2)  # [R, b, t, N]
        if pack.readout is not None:
            found = found @ pack.readout.mT[:, None]
        if "readout" in pack.groups:
            found = found + rates[:, list(read)].transpose(1, 2) @ readout.mT[:, None]
        return found

    def _leave_out_constants(self, hidden: Tensor) -> None:
        """Set to zero what is no parameter, in [k, R, N, F]."""
        N, N_in = self.pack.input.shape[1:]
        if "recurrent" not in self.pack.groups:
            hidden[..., :N] = 0
        elif not self.pack.self_connections:
            hidden[..., :N].diagonal(dim1=-2, dim2=-1).zero_()
        if "input" not in self.pack.groups:
            hidden[..., N : N + N_in] = 0
        if "bias" not in self.pack.groups:
            hidden[..., N + N_in :] = 0


def slope(rates: Tensor, activation: checks.Activation) -> Tensor:
    """f'(h) in terms of the rates f(h): [a > 0] for ReLU, 1 - a² for tanh."""
    if activation == "relu":
        return (rates > 0).to(rates.dtype)
    return 1 - rates * rates if activation == "tanh" else torch.ones_like(rates)
