"""Two cell types, one of them hyperexcitable (Aljadeff et al. 2015)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from hpr.fields import check_positive

from .base import Matrix, Rescaled

Connections = Literal["touching", "within"]


@dataclass(frozen=True)
class CellTypes(Rescaled):
    """Blocks of different variance: J_ij ~ N(0, g_ij²/N), rescaled (Aljadeff et al. 2015, Figure S3; Appendix C.1).

    The first round(fraction · N) units are hyperexcitable. Their connections have the gain g_ij = `hyperexcitable`, all
    others `rest`. The paper does not say which connections are meant: `connections` takes those that touch the group on
    either side, or those within it.
    """

    kind: ClassVar[str] = "cell_types"
    # The share of hyperexcitable units.
    fraction: float = 0.02
    # The gain of the connections of these units.
    hyperexcitable: float = 10.0
    # The gain of all other connections.
    rest: float = 0.8
    # Which connections are hyperexcitable: those that touch the group on either side, or those within it.
    connections: Connections = "touching"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "fraction", "hyperexcitable", "rest")
        if self.fraction >= 1:
            raise ValueError(f"fraction: expected a share in (0, 1), got {self.fraction!r}")

    @property
    def label(self) -> str:
        """What a plot's axis calls this structure."""
        return f"cell types, {self.connections}"

    def group(self, N: int) -> int:
        """How many of N units are hyperexcitable."""
        return round(self.fraction * N)

    def check(self, N: int) -> None:
        """Raise ValueError where this structure cannot have N units."""
        super().check(N)
        if not 0 < self.group(N) < N:
            raise ValueError(
                f"fraction: expected from 1 to N - 1 = {N - 1} hyperexcitable units, "
                f"got {self.group(N)} ({self.fraction} of {N})"
            )

    def structured(self, null: Matrix, rng: np.random.Generator) -> Matrix:
        """Give each block of a null's draw [N, N] its gain."""
        member = np.arange(len(null)) < self.group(len(null))
        join = np.logical_or if self.connections == "touching" else np.logical_and
        theirs = join.outer(member, member)
        return null * np.where(theirs, self.hyperexcitable, self.rest)
