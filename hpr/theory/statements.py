"""The statements that are checked: those of Section 2.3 and Appendix B, and some that are derived from them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Statement:
    """The number of an equation, the quantity that tests it, and the statement."""

    equation: str
    quantity: str
    says: str


# In the paper's order. Keys that begin with "printed" belong to steps that look like misprints.
STATEMENTS: dict[str, Statement] = {
    "kernel": Statement(
        "Eq. 7",
        "relative difference of the kernel",
        "K = Xᵀ (W_1ᵀ W_1 + ‖W_2‖² I) X",
    ),
    "final kernel": Statement(
        "Eq. 8",
        "‖K^(f) - Eq. 8‖ / (bound of O(σ²)), largest over tasks and σ",
        "trained from small weights, K^(f) = ‖β‖ Xᵀ (β̂ β̂ᵀ + I) X + O(σ²)",
    ),
    "task alignment": Statement(
        "Eq. 14",
        "|KA - Eq. 14| / bound, largest over tasks and σ",
        "KA = (β̂ᵀ M_0 β̂ + Tr M_0) / √((d+3) Tr M_0²) + O(σ²), task by task",
    ),
    "constant": Statement(
        "Lemma 2",
        "E[β̂_1²]",
        "E[β̂ᵀ M β̂] = c Tr M; c, left open, is 1/d (derived here)",
    ),
    "general moment": Statement(
        "Eq. 18",
        "mean KA over tasks, Gaussian W_1",
        "E[KA] = (1 + c) Tr M_0 / √((d+3) Tr M_0²)",
    ),
    "expectation": Statement(
        "Eq. 21",
        "mean KA over tasks, equal singular values",
        "E[KA] = (1 + c)(d + 1) / √((d+3)(d+2 + Σ (s_j/σ)⁴)), with c = 1/d",
    ),
    "trained expectation": Statement(
        "Eq. 21",
        "mean KA of trained networks",
        "the mean over tasks of really trained networks is Eq. 21 with c = 1/d",
    ),
    "representation": Statement(
        "RA",
        "mean RA of trained networks",
        "the proof extends to the representation: E[RA] = σ² / (d √Σ s_j⁴), derived here",
    ),
    "maximiser": Statement(
        "Theorem 1",
        "largest |s_j²/σ² - 1/d| where SLSQP ends",
        "E[KA] is maximal with all d singular values equal",
    ),
    "aligned start": Statement(
        "Prop. 1",
        "smallest KA over tasks",
        "W_1 = σ [β̂, 0 … 0]ᵀ gives KA = 1 + O(σ²)",
    ),
    "frozen": Statement(
        "Prop. 2",
        "relative squared error, smallest share of the rank's lower bound",
        "with W_h frozen at rank < N_out, zero error is not possible",
    ),
    "trained recurrent": Statement(
        "Prop. 2",
        "relative squared error, largest, W_h trained",
        "from the same start, W_h changes and the error vanishes",
    ),
    "attained": Statement(
        "Prop. 2",
        "relative squared error, largest, targets of a readout of the network",
        "the bound is attained: at rank N_out, W_h may stay frozen for some Y of rank N_out",
    ),
    "arbitrary target": Statement(
        "Prop. 2",
        "relative squared error, W_h frozen, Gaussian targets",
        "beyond the paper: N_out isn't enough for an arbitrary Y, which needs rank min(N, data points)",
    ),
    "leaky": Statement(
        "Prop. 2",
        "relative squared error, smallest share of the rank's lower bound, W_h frozen, ρ = exp(-1)",
        "so too in the leaky network of Eq. 1, made linear (Eq. 25 drops its leak)",
    ),
    "printed Eq. 12": Statement(
        "Eq. 12",
        "‖K^(f)‖² / ‖β‖²",
        "third line as printed: Tr(Xᵀ (β̂ β̂ᵀ + I) X)",
    ),
    "printed Eq. 15": Statement(
        "Eq. 15",
        "integral of the density of β",
        "as printed: (2πd)^(-d/2) exp(-‖β‖²/d)",
    ),
    "printed Eq. 20": Statement(
        "Eq. 20",
        "Tr M_0² at σ = 0.1",
        "first line as printed: Tr(W_1ᵀ W_1 + σ I)²",
    ),
    "printed Eq. 22": Statement(
        "Eq. 22",
        "s_1²/σ² at points that satisfy the KKT conditions",
        "the KKT solutions satisfy s_j² = σ²/d for all j",
    ),
}
