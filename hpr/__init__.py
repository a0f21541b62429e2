"""Rich and lazy learning in recurrent networks (Liu et al., ICLR 2024), at the speed of the machine."""

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from hpr.system.extras import install

if TYPE_CHECKING:
    from hpr.experiment.table import results as results

__version__ = "0.2.0.dev0"

if find_spec("numpy") is None:
    # With torch alone the kernels are installed, and not this package's requirements.
    _missing = (
        f"hpr: expected numpy, which is not installed; install what hpr needs: {install('repro')}"
    )
    # `python -m` imports this package before the command line can catch anything.
    if sys.argv[:1] == ["-m"]:
        sys.exit(_missing)
    raise ModuleNotFoundError(_missing, name="numpy")

# What the package has under its own name, and the module that is imported when it is first asked for.
_PROVIDED = {"results": "hpr.experiment.table"}


def __getattr__(name: str) -> Any:
    if name in _PROVIDED:
        return getattr(import_module(_PROVIDED[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
