"""The factors of a pack of Jacobians: the one form in which they pass between the modules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from hpr_kernels import checks


@dataclass(frozen=True, eq=False)
class Factors:
    """A pack of Jacobians whose row (b, o) is Σ_s g_s^{b,o} ⊗ z_s^b; nothing is checked here.

    Where outputs are contracted apart, g holds the P outputs of a network one after another in its first axis, with
    O = 1, and z holds the network once. Otherwise P = 1.

    Attributes:
        g: adjoints [R P, B, O, S, N], in any memory layout.
        z: inputs [R, B, S, F].
        reach: for each of the P a tuple that has for each of the O outputs, ascending, the last step at which its
            adjoint may be non-zero.
    """

    g: Tensor
    z: Tensor
    reach: tuple[tuple[int, ...], ...]

    @property
    def rows(self) -> int:
        """Rows of one Jacobian, B O."""
        return self.g.shape[1] * self.g.shape[2]

    def network(self, r: int) -> Factors:
        """Network r as a pack of one."""
        P = len(self.reach)
        return Factors(self.g[r * P : (r + 1) * P], self.z[r : r + 1], self.reach)

    def outputs(self, some: slice) -> Factors:
        """The rows of some outputs; P = 1."""
        return Factors(self.g[:, :, some], self.z, (self.reach[0][some],))

    def reduced(self, reduce: checks.Reduction) -> Factors:
        """The factors whose full Gram matrices are what `reduce` asks for; P = 1 before.

        For "trace" g is copied where O > 1, for "diagonal" where R > 1 and O > 1.
        """
        (reach,) = self.reach
        if reduce == "trace":
            # Σ_o ⟨g^o, g'^o⟩ is the inner product of the outputs' adjoints end to end.
            return Factors(self.g.transpose(2, 3).flatten(3)[:, :, None], self.z, (reach[-1:],))
        if reduce == "diagonal":
            apart = self.g.transpose(1, 2).flatten(0, 1)[:, :, None]
            return Factors(apart, self.z, tuple((last,) for last in reach))
        return self

    def each(self) -> Iterator[Factors]:
        """Every Jacobian of g's first axis as a pack of one, with P = 1."""
        P = len(self.reach)
        for i in range(len(self.g)):
            r = i // P
            yield Factors(self.g[i : i + 1], self.z[r : r + 1], (self.reach[i % P],))

    def check_finite(self) -> None:
        """Raise NonFinite, which names "adjoints" or "inputs", where a factor holds NaN or infinity."""
        checks.finite("adjoints", self.g)
        checks.finite("inputs", self.z)
