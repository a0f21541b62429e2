"""The exact tangent kernel of your own recurrent network, and of an MLP over tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from hpr_kernels import FactoredJacobian, leaky_rnn_ntk

RHO = 0.37


class OwnRNN(nn.Module):
    """A leaky network as one might write it: weights in layers, a loop over time."""

    def __init__(self, N_in: int, N: int, N_out: int) -> None:
        super().__init__()
        self.recurrent = nn.Linear(N, N, bias=False)
        self.input = nn.Linear(N_in, N, bias=False)
        self.readout = nn.Linear(N, N_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs [T, B, N_out] of inputs [T, B, N_in]."""
        h = x.new_zeros(x.shape[1], self.recurrent.in_features)
        outputs = []
        for x_t in x:
            h = RHO * h + (1 - RHO) * (self.recurrent(h.relu()) + self.input(x_t))
            outputs.append(self.readout(h.relu()))
        return torch.stack(outputs)


def by_jacobian(module: nn.Module, x: Tensor, examples: int) -> Tensor:
    """J Jᵀ with rows (example, …) the slow way; `examples` is the axis of x and of the outputs."""

    def outputs(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(module, weights, (x.unsqueeze(examples),)).squeeze(examples)

    weights = {name: weight.detach() for name, weight in module.named_parameters()}
    J = vmap(jacrev(outputs), in_dims=(None, examples))(weights, x)
    flat = torch.cat(
        [part.flatten(-weights[name].dim()).flatten(0, -2) for name, part in J.items()], 1
    )
    return flat @ flat.mT


def main() -> None:
    """Compute both kernels both ways."""
    torch.manual_seed(0)
    rnn = OwnRNN(N_in=3, N=24, N_out=2).double()
    x = torch.randn(6, 5, 3, dtype=torch.float64)  # T, B, N_in
    weights = {
        name: getattr(rnn, name).weight.detach() for name in ("recurrent", "input", "readout")
    }
    K = leaky_rnn_ntk(x, **weights, rho=RHO)  # rows (b, t, k)
    torch.testing.assert_close(K, by_jacobian(rnn, x, 1))
    print(f"recurrent network: {list(K.shape)}, as torch.func's")

    # A linear layer shared over S tokens is a sum of S outer products: ∂y_o/∂W = Σ_s g_s^o x_sᵀ.
    mlp = nn.Sequential(nn.Linear(7, 16, bias=False), nn.Tanh()).double()
    tokens = torch.randn(5, 4, 7, dtype=torch.float64)  # B, S, N_in
    slope = 1 - mlp(tokens).detach().square()
    g = torch.diag_embed(slope).transpose(1, 2)  # B, O, S, N: the output o is Σ_s y_so
    K = FactoredJacobian(g, tokens).gram()
    summed = nn.Sequential(mlp, Sum())
    torch.testing.assert_close(K, by_jacobian(summed, tokens, 0))
    print(f"MLP over tokens: {list(K.shape)}, as torch.func's")


class Sum(nn.Module):
    """Sum over tokens."""

    def forward(self, y: Tensor) -> Tensor:
        """[B, S, N] to [B, N]."""
        return y.sum(1)


if __name__ == "__main__":
    main()
