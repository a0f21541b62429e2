"""The internal tier: the names that `hpr`, the other package of this distribution, may use beside the public names.

There are three tiers:

- public: `hpr_kernels.__all__` and `hpr_kernels.testing`, for everybody;
- internal: the names in `__all__` below, for `hpr` alone; they change without notice. `recurrence`, `loss`, `trials`
  and `update` are the dispatch modules of these operations, whose functions do not check their arguments. `iterations`
  trains packs by the C kernels;
- private: all other names, for `hpr_kernels` itself, its tests and its benchmarks.

`tests/kernels/test_tiers.py` checks the imports of `hpr` against the two upper tiers.
"""

from hpr_kernels import layout
from hpr_kernels.autocast import outside_autocast
from hpr_kernels.backend import uses_native, uses_triton
from hpr_kernels.checks import NonFinite
from hpr_kernels.cores import available_cores
from hpr_kernels.loss import dispatch as loss
from hpr_kernels.loss import readout_cross_entropy, readout_squared_error
from hpr_kernels.native import iterations
from hpr_kernels.recurrence import dispatch as recurrence
from hpr_kernels.recurrence import leaky_rnn_trace
from hpr_kernels.tangent.eager import kernel_sums
from hpr_kernels.trials import dispatch as trials
from hpr_kernels.update import Constraint, momentum_step
from hpr_kernels.update import dispatch as update

__all__ = [
    "Constraint",
    "NonFinite",
    "available_cores",
    "iterations",
    "kernel_sums",
    "layout",
    "leaky_rnn_trace",
    "loss",
    "momentum_step",
    "outside_autocast",
    "readout_cross_entropy",
    "readout_squared_error",
    "recurrence",
    "trials",
    "update",
    "uses_native",
    "uses_triton",
]
