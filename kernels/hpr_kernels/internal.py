"""What `hpr`, the other package of this distribution, may use beside the public names: the second of three tiers.

- public: `hpr_kernels.__all__` and `hpr_kernels.testing`, for everybody;
- internal: the names in `__all__` below, for `hpr` alone; they change without notice;
- private: everything else, for `hpr_kernels` itself, its tests and its benchmarks.

`tests/test_structure.py` holds the imports of `hpr` to the two upper tiers.
"""

from hpr_kernels import layout
from hpr_kernels.autocast import outside_autocast
from hpr_kernels.backend import DEFAULT_PRECISION, uses_triton
from hpr_kernels.checks import NonFinite
from hpr_kernels.cores import available_cores
from hpr_kernels.loss import readout_cross_entropy
from hpr_kernels.recurrence import dispatch as recurrence
from hpr_kernels.update import Constraint, momentum_step

__all__ = [
    "DEFAULT_PRECISION",
    "Constraint",
    "NonFinite",
    "available_cores",
    "layout",
    "momentum_step",
    "outside_autocast",
    "readout_cross_entropy",
    "recurrence",
    "uses_triton",
]
