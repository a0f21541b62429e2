"""The pictures. Only this package imports matplotlib.

A picture depends on the records alone, not on the user's settings of matplotlib nor on the date.
"""

from __future__ import annotations

import atexit
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpr.system.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 7.0  # inches, a page's two columns
# Points of thin lines that one axes of an SVG holds as paths, and the width in points below which a line is thin.
DENSE = 2000
THIN = 1.0
STYLE: dict[str, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    # Letters stay text in the PDF and in the SVG, which is a fraction of the size and can be searched.
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
}


def _homeless() -> bool:
    """Whether a folder in which matplotlib keeps files can't be made or written: matplotlib would warn or fail."""
    named = os.environ.get("MPLCONFIGDIR")
    try:
        if named:
            folders = [Path(named)]
        elif sys.platform.startswith(("linux", "freebsd")):
            bases = (("XDG_CONFIG_HOME", ".config"), ("XDG_CACHE_HOME", ".cache"))
            folders = [
                Path(os.environ.get(name) or Path.home() / usual, "matplotlib")
                for name, usual in bases
            ]
        else:
            folders = [Path.home() / ".matplotlib"]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return True
    return not all(os.access(folder, os.W_OK) for folder in folders)


if "matplotlib" not in sys.modules and _homeless():
    os.environ["MPLCONFIGDIR"] = tempfile.mkdtemp(prefix="matplotlib-")
    atexit.register(shutil.rmtree, os.environ["MPLCONFIGDIR"], ignore_errors=True)

try:
    import matplotlib
except ValueError as error:
    # The cause is a garbled matplotlibrc or MPLBACKEND.
    raise ImportError(f"matplotlib can't be imported with this user's settings: {error}") from None


# The endings of a picture's files, and the metadata that each leaves out, so that its bytes stay the same.
ENDINGS: dict[str, dict[str, None]] = {
    ".png": {"Software": None},
    ".pdf": {"CreationDate": None, "Producer": None, "Creator": None},
    ".svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
}


def save(plot: Callable[[], Figure], path: Path) -> None:
    """Draw a picture and write it to three files: `path` with .png (200 dpi), .pdf and .svg after its name.

    All use matplotlib's default parameters with `STYLE`, not the user's parameters. The SVG has no background, and its
    dense lines are pixels (`_rasterise_dense`).
    """
    # The backend concerns windows alone, and a process chooses it once, so it is not reset.
    defaults = {
        name: value for name, value in matplotlib.rcParamsDefault.items() if name != "backend"
    }
    # Names inside an SVG are random without a salt.
    with matplotlib.rc_context({**defaults, **STYLE, "svg.hashsalt": "hpr"}):
        figure = plot()
        for ending, metadata in ENDINGS.items():
            content = io.BytesIO()
            vector = ending == ".svg"
            if vector:
                _rasterise_dense(figure)
            figure.savefig(
                content, format=ending[1:], dpi=200, metadata=metadata, transparent=vector
            )
            write_atomically(path.with_name(path.name + ending), content.getvalue())


def _rasterise_dense(figure: Figure) -> None:
    """Turn the thin lines of axes with more than `DENSE` points into pixels, which take less of an SVG than paths."""
    for axes in figure.axes:
        thin = [line for line in axes.lines if line.get_linewidth() < THIN]
        if sum(np.size(line.get_xdata()) for line in thin) > DENSE:
            for line in thin:
                line.set_rasterized(True)
