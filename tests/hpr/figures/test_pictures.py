"""Pictures are functions of the records alone: their bytes do not depend on the user's settings of matplotlib."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# One figure for each kind of picture: alignment, trajectories, spectra, structures, sweeps, the theory.
FAMILIES = ("3", "14", "16", "17", "18", "theory")
# The theory's results take long to compute, so the first child keeps them for the others.
PROGRAM = f"""
import pickle, sys
from pathlib import Path
import numpy as np
import hpr.figures.definitions.theory_figure
from hpr.figures import Settings, discover
from hpr.figures.panel import MEASURES
from hpr.theory import Size

hpr.figures.definitions.theory_figure.QUICK = Size(20_000, 20, 2, 2)
settings = Settings(seeds=2)
HOSTILE


def record(spec):
    # The picture says which runs have no value.
    if spec.seed and int(spec.key[0], 16) < 2:
        return {{"status": "diverged", "measures": {{}}}}
    value = lambda name: float(np.random.default_rng([int(spec.key, 16), len(name)]).uniform(0.5, 1))
    names = ("kernel_alignment", "task_kernel_alignment", "centred_kernel_alignment", "kernel_effective_rank")
    course = {{name: [1.0, 0.9, value(name)] for name in names}}
    return {{
        "status": "finished",
        "measures": {{name: value(name) for name in MEASURES}},
        "trajectory": {{"iteration": [0, 10, 100], **course}},
    }}


from hpr.figures.draw import save
import hpr.theory.results

kept, compute = Path(sys.argv[2]), hpr.theory.results.run_checks
if not kept.exists():
    kept.write_bytes(pickle.dumps(compute(hpr.figures.definitions.theory_figure.QUICK)))
hpr.theory.results.run_checks = lambda size: pickle.loads(kept.read_bytes())
figures = discover()
for name in {FAMILIES!r}:
    figure = figures[name]
    records = {{spec.key: record(spec) for spec in figure.runs(settings)}}
    save(lambda: figure.plot(settings, records), Path(sys.argv[1]) / name)
"""
MATPLOTLIBRC = """
text.usetex: True
font.family: serif
font.size: 20
axes.grid: True
axes.facecolor: black
axes.prop_cycle: cycler('color', ['r', 'g'])
axes.unicode_minus: False
axes.formatter.limits: 0, 0
lines.linewidth: 7
lines.marker: x
legend.frameon: True
figure.dpi: 33
figure.facecolor: yellow
savefig.bbox: tight
savefig.dpi: 50
savefig.transparent: True
savefig.facecolor: red
savefig.pad_inches: 1
pdf.compression: 0
pdf.fonttype: 3
path.sketch: 5, 50, 2
no.such.parameter: 7
"""
IN_PROCESS = """
import matplotlib
matplotlib.rcParams.update({"axes.grid": True, "font.family": "serif", "savefig.bbox": "tight"})
matplotlib.rcParams.update({"text.usetex": True, "savefig.transparent": True, "savefig.dpi": 50})
"""


def pictures(out: Path, theory: Path, settings: str = "", **environment: str) -> dict[str, str]:
    """The hash of each picture, drawn in a child with these settings of matplotlib; `theory`: file of its results."""
    out.mkdir()
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    kept |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "HOME": str(out.parent)}
    program = PROGRAM.replace("HOSTILE", settings)
    done = subprocess.run(
        [sys.executable, "-c", program, str(out), str(theory)],
        cwd=out, env={**kept, **environment}, capture_output=True, encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.iterdir())
        if path.suffix in (".png", ".pdf")
    }


@pytest.fixture(scope="module")
def theory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("theory") / "results"


@pytest.fixture(scope="module")
def plain(theory: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    found = pictures(tmp_path_factory.mktemp("plain") / "out", theory)
    assert set(found) == {f"{name}{end}" for name in FAMILIES for end in (".png", ".pdf")}
    return found


@pytest.mark.nightly
def test_a_users_file_of_settings_reaches_no_picture(
    plain: dict[str, str], theory: Path, tmp_path: Path
) -> None:
    (tmp_path / "matplotlibrc").write_text(MATPLOTLIBRC, encoding="utf-8")
    drawn = pictures(tmp_path / "out", theory, MATPLOTLIBRC=str(tmp_path), MPLBACKEND="svg")
    assert drawn == plain


@pytest.mark.nightly
def test_settings_of_the_process_reach_no_picture_and_are_kept(
    plain: dict[str, str], theory: Path, tmp_path: Path
) -> None:
    kept = (
        "import atexit, json, matplotlib\n"
        "before = repr(matplotlib.rcParams)\n"
        "@atexit.register\ndef after():\n"
        "    Path('kept.json').write_text(json.dumps(repr(matplotlib.rcParams) == before))\n"
    )
    assert pictures(tmp_path / "out", theory, IN_PROCESS + kept) == plain
    assert json.loads((tmp_path / "out" / "kept.json").read_text(encoding="utf-8")) is True


@pytest.mark.parametrize("how", ["backend", "file"])
def test_settings_with_which_matplotlib_cannot_be_imported_are_one_line(
    how: str, tmp_path: Path
) -> None:
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    (tmp_path / "matplotlibrc").write_bytes(b"font.family: \xff\xfe\n")
    bad = {"MPLBACKEND": "nonsense"} if how == "backend" else {"MATPLOTLIBRC": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "hpr.reproduce", "--figure", "16", "--device", "cpu"],
        cwd=tmp_path.parent, env={**kept, "HOME": str(tmp_path), **bad},
        capture_output=True, encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert "matplotlib can't be imported with this user's settings: " in line
    assert ("nonsense" if how == "backend" else "utf-8") in line
