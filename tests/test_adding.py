"""docs/adding.md: each of its snippets, kept outside the package, is used by the package as it says.

Each runs in a process of its own, for what is registered stays registered.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "adding.md"
KERNELS = ROOT / "kernels" / "hpr_kernels"


def snippets(section: str, language: str = "python") -> list[str]:
    """The code of a section of the page."""
    sections = re.split(r"^## (.*)$", PAGE.read_text(encoding="utf-8"), flags=re.M)
    text = dict(zip(sections[1::2], sections[2::2], strict=True))[section]
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


def child(
    arguments: list[str], folder: Path, path: tuple[Path, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Python in a folder that is no checkout; `path` is searched before the packages under test."""
    searched = [*map(str, path), str(ROOT), str(ROOT / "kernels")]
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=folder,
        # Threads that wait for each other are slow on a busy machine.
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(searched)},
        capture_output=True,
        text=True,
    )


def run(program: str, folder: Path, path: tuple[Path, ...] = ()) -> str:
    done = child(["-c", program], folder, path)
    assert done.returncode == 0, done.stderr
    return done.stdout


def outside(section: str, folder: Path, name: str) -> None:
    """Write a section's one snippet to a module outside the package."""
    (code,) = snippets(section)
    (folder / f"{name}.py").write_text(code, encoding="utf-8")


def test_a_connectivity(tmp_path: Path) -> None:
    """Runs start from it, and its record is read where it is registered and nowhere else."""
    outside("A connectivity", tmp_path, "ring")
    train = """
import numpy as np, torch
from ring import Ring
from hpr.experiment import RunSpec, Store
from hpr.experiment.execution import run_local
from hpr.experiment.plan import tasks
from hpr.training.loop import train_pack

W = Ring(width=2).draw(9, seed=0)
away = np.abs(np.subtract.outer(range(9), range(9)))
assert ((W != 0) == (np.minimum(away, 9 - away) <= 2)).all()
spec = RunSpec("2AF", Ring(width=2), seed=0, N=20, iterations=2)
outcome = run_local([spec], Store("out"), tasks(), train_pack, torch.device("cpu"), print)
assert outcome.failures == {}, outcome.failures
(record,) = outcome.records.values()
assert record["spec"]["connectivity"] == {"kind": "ring", "gain": 1.5, "width": 2}
again = run_local([spec], Store("out"), tasks(), None, torch.device("cpu"), print)
assert again.records == outcome.records
"""
    run(train, tmp_path)
    read = """
import json, pathlib
from hpr.connectivity import from_dict
(record,) = pathlib.Path("out/runs").glob("*.json")
plain = json.loads(record.read_text())["spec"]["connectivity"]
try:
    from_dict(plain)
except ValueError as error:
    assert "hpr.connectivity.register" in str(error), error
else:
    raise AssertionError("a kind that nobody registered was read")
import ring
assert from_dict(plain) == ring.Ring(gain=1.5, width=2)
"""
    run(read, tmp_path)


def test_a_task(tmp_path: Path) -> None:
    """The script trains a network on it; its trials are what a task's must be."""
    outside("A task", tmp_path, "parity")
    done = child(["parity.py"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1 x parity, N = 50, 1 finished" in done.stdout
    assert 0 < float(done.stdout.splitlines()[-1]) <= 1
    assert len(list((tmp_path / "results" / "runs").glob("*.json"))) == 1
    check = """
import numpy as np
from parity import Parity
task = Parity()
long, alone = task.draw(3, 5, 4, 6), task.draw(3, 7, 1, 6)
assert (long.inputs[2] == alone.inputs[0]).all() and (long.targets[2] == alone.targets[0]).all()
assert (np.add.accumulate(long.inputs[..., 0], 1) % 2 == long.targets).all()
assert 0 < long.targets.mean() < 1
others = task.draw(4, 5, 4, 6), task.draw(3, 9, 4, 6), task.draw(3, 5, 4, 6, "evaluation")
assert all((long.inputs != other.inputs).any() for other in others)
"""
    run(check, tmp_path)


def test_a_measure(tmp_path: Path) -> None:
    """It stands in the records of the process that registers it, and nothing else of them changes."""
    outside("A measure", tmp_path, "silenced")
    plain = """
import json, torch
from hpr.connectivity import Dense
from hpr.experiment import RunSpec
from hpr.tasks import make_task
from hpr.training.loop import train_pack
spec = RunSpec("2AF", Dense(), seed=0, N=50, iterations=100)
(record,) = train_pack([spec], make_task("2AF"), device=torch.device("cpu"))
print(json.dumps([record["key"], record["measures"], record["flags"]]))
"""
    own = "import json; from silenced import record\n" + plain.splitlines()[-1]
    key, measures, flags = json.loads(run(plain, tmp_path))
    printed = run(own, tmp_path).splitlines()
    own_key, own_measures, own_flags = json.loads(printed[-1])
    share = own_measures.pop("own_silenced_share")
    assert (own_key, own_measures, own_flags) == (key, measures, flags)
    assert printed[0] == str(share)
    assert 0 <= share <= 1


def test_a_measure_that_is_not_finite_is_flagged_and_sees_both_states(tmp_path: Path) -> None:
    program = """
import torch
from hpr.connectivity import Dense
from hpr.experiment import RunSpec
from hpr.laziness import alignment, kernel_effective_rank, representation_alignment, weight_change_norm
from hpr.tasks import make_task
from hpr.training.initial import initial_pack
from hpr.training.loop import train_pack
from hpr.training.own_measures import register_measure
from hpr.training.pack import rates

seen = []
@register_measure("own_nothing")
def nothing(before, after):
    seen.append((before, after))
    return float("nan")

spec = RunSpec("2AF", Dense(), seed=0, N=20, iterations=5, trials=7, kernel_trials=3)
(record,) = train_pack([spec], make_task("2AF"), device=torch.device("cpu"))
assert record["measures"]["own_nothing"] is None
assert "own_nothing is not a number" in record["flags"]
((before, after),) = seen
shapes = [tuple(x.shape) for x in (after.hidden, after.readout, after.rates)]
assert shapes == [(20, 20), (3, 20), (7, 20)], shapes
measured = record["measures"]
assert weight_change_norm(before.hidden, after.hidden) == measured["weight_change_norm"] > 0
assert alignment(before.kernel, after.kernel) == measured["kernel_alignment"]
assert representation_alignment(before.rates, after.rates) == measured["representation_alignment"]
# Which of the two is which: all measures above are symmetric.
assert kernel_effective_rank(before.kernel) == measured["kernel_effective_rank_initial"]
initial = initial_pack([spec], make_task("2AF"), torch.device("cpu"))
assert torch.equal(before.hidden, initial.hidden[0])
x = torch.from_numpy(make_task("2AF").draw(0, 0, 1, 7, "evaluation").inputs[0])
assert torch.equal(before.rates, rates(initial, x[None], spec)[0, -1])
"""
    run(program, tmp_path)


def test_a_measure_needs_a_name_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from hpr.training import own_measures

    monkeypatch.setattr(own_measures, "OWN_MEASURES", {})
    for name in ("kernel_alignment", "own_", "own_Share", "own_a b", 3):
        with pytest.raises(
            ValueError, match=r"^name: expected own_ and lower-case letters, .*, got "
        ):
            own_measures.register_measure(name)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^measure own_x: expected a function, got 3$"):
        own_measures.register_measure("own_x")(3)  # type: ignore[arg-type]

    def first(before: object, after: object) -> float:
        return 1.0

    own_measures.register_measure("own_x")(first)
    own_measures.register_measure("own_x")(first)
    with pytest.raises(
        ValueError, match=r"^name: expected one function of its own, got 'own_x' of "
    ):
        own_measures.register_measure("own_x")(lambda before, after: 2.0)
    assert list(own_measures.OWN_MEASURES.items()) == [("own_x", first)]


@pytest.mark.nightly
def test_the_lazy_distance(tmp_path: Path) -> None:
    """Both runs have it."""
    outside("The lazy distance", tmp_path, "lazy")
    printed = [line.split() for line in run("import lazy", tmp_path).splitlines()[-2:]]
    assert [gain for gain, _ in printed] == ["0.5", "1.5"]
    assert all(0 < float(value) < 3 for _, value in printed)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The figure's package of the page, built offline and installed into a folder."""
    folder = tmp_path_factory.mktemp("figure")
    source, site = folder / "source", folder / "site"
    source.mkdir()
    outside("A figure", source, "gain_figure")
    (metadata,) = snippets("A figure", "toml")
    (source / "pyproject.toml").write_text(metadata, encoding="utf-8")
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--no-compile"]
    install = ["install", "--quiet", *offline, "--target", str(site), str(source)]
    subprocess.run([sys.executable, "-m", "pip", *install], check=True)
    return site


LISTING = """
import sys
from hpr.reproduce import main
assert main(["--list"]) == 0
heavy = {"torch", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.mark.nightly
def test_a_figure(installed: Path, tmp_path: Path) -> None:
    """The command line lists it without torch or matplotlib, and makes it; without its package it is unknown."""
    lines = run(LISTING, tmp_path, (installed,)).splitlines()
    (line,) = (line for line in lines if line.split()[0] == "gain")
    assert "Gain of the initial recurrent weights: 18 runs, " in line
    small = ["--figure", "gain", "--seeds", "1", "--iterations", "2", "--device", "cpu"]
    command = ["-m", "hpr.reproduce", *small, "--out", "out"]
    done = child(command, tmp_path)
    assert done.returncode == 2
    assert "--figure: expected some of 1, 2, " in done.stderr
    done = child(command, tmp_path, (installed,))
    assert done.returncode == 0, done.stderr
    names = {path.name for path in (tmp_path / "out").glob("figure_gain.*")}
    assert names == {f"figure_gain.{ending}" for ending in ("png", "pdf", "svg", "json", "md")}
    assert len(list((tmp_path / "out" / "runs").glob("*.json"))) == 3


def test_a_figure_whose_name_is_taken_is_one_line(installed: Path, tmp_path: Path) -> None:
    site = shutil.copytree(installed, tmp_path / "site")
    module = site / "gain_figure.py"
    code = module.read_text(encoding="utf-8")
    assert code.count('name, title = "gain"') == 1
    module.write_text(code.replace('name, title = "gain"', 'name, title = "16"'), encoding="utf-8")
    done = child(["-m", "hpr.reproduce", "--list"], tmp_path, (site,))
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line == (
        "hpr.reproduce: error: figure 16: expected one definition, got a second in "
        "entry point gain = gain_figure:FIGURES of hpr.figures"
    )


OWN = """
from ring import Ring

from hpr.training.own_measures import register_measure


@register_measure("own_largest_change")
def largest_change(before, after):
    return float((after.hidden - before.hidden).abs().max())

"""


@pytest.mark.nightly
def test_a_figure_brings_what_its_runs_need(installed: Path, tmp_path: Path) -> None:
    """The command line knows the connectivity and the measure that the figure's module registers."""
    site = shutil.copytree(installed, tmp_path / "site")
    outside("A connectivity", site, "ring")
    module = site / "gain_figure.py"
    code = module.read_text(encoding="utf-8")
    for old, new in (
        ("Dense(gain=gain), seed,", "Ring(gain), seed,"),
        ('"kernel_alignment", "rises"', '"own_largest_change", "falls"'),
    ):
        assert code.count(old) == 1
        code = code.replace(old, new)
    module.write_text(OWN + code, encoding="utf-8")
    run(LISTING, tmp_path, (site,))
    small = ["--figure", "gain", "--seeds", "2", "--iterations", "2", "--device", "cpu"]
    for stored in (0, 6):
        done = child(["-m", "hpr.reproduce", *small, "--out", "out"], tmp_path, (site,))
        assert done.returncode == 0, done.stderr
        assert f"6 runs: {stored} already in " in done.stdout
    records = [
        json.loads(path.read_text(encoding="utf-8"))
        for path in (tmp_path / "out" / "runs").glob("*.json")
    ]
    assert {record["spec"]["connectivity"]["kind"] for record in records} == {"ring"}
    figure = json.loads((tmp_path / "out" / "figure_gain.json").read_text(encoding="utf-8"))
    (claim,) = figure["claims"]
    changes = sorted(record["measures"]["own_largest_change"] for record in records)
    means = [group["mean"] for group in claim["groups"]]
    assert changes[0] > 0
    assert sum(means) == pytest.approx(sum(changes) / 2)


def test_an_operator(tmp_path: Path) -> None:
    """Its Gram matrices are those of the Jacobian by torch.func."""
    outside("An operator", tmp_path, "convolution")
    program = """
import torch
from torch.func import jacrev
from convolution import K, convolution_jacobian, trace
assert K.shape == (24, 24) and trace.shape == (6, 6)
generator = torch.Generator().manual_seed(0)
x, weight = (
    torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((6, 2, 30), (4, 2, 5))
)
J = jacrev(lambda w: torch.nn.functional.conv1d(x, w).tanh().sum(2))(weight).reshape(24, -1)
found = convolution_jacobian(x, weight)
torch.testing.assert_close(found.gram(), J @ J.mT)
blocks = (J @ J.mT).reshape(6, 4, 6, 4)
torch.testing.assert_close(found.gram(reduce="trace"), torch.einsum("akbk->ab", blocks))
"""
    run(program, tmp_path)


ROUNDED = """
import sys, torch
from pathlib import Path
import hpr_kernels
from hpr_kernels import leaky_rnn
from hpr_kernels.testing import random_network
assert Path(hpr_kernels.__file__).is_relative_to(sys.argv[1]), hpr_kernels.__file__
generator = torch.Generator().manual_seed(0)
net = random_network(generator, N=33, T=8, B=5, dtype=torch.float32)
W, W_x = net.recurrent.requires_grad_(), net.input
rates = leaky_rnn(net.x, recurrent=W, input=W_x, rho=0.37)
exact = leaky_rnn(net.x.double(), recurrent=W.double(), input=W_x.double(), rho=0.37)
# Half a unit in the last place of fp32, relative to the number.
error = ((rates.double() - exact).abs() / exact.abs().clamp_min(1e-30)).max() * 2**24
(gradient,) = torch.autograd.grad(rates.sum(), W, retain_graph=True)
(expected,) = torch.autograd.grad(exact.sum(), W)
torch.testing.assert_close(gradient, expected)
print(float(error.detach()))
"""


def test_a_backend(tmp_path: Path) -> None:
    """In a copy of the package with the page's module and lines fp32 rates are rounded once; in a mere copy not."""
    module, lines = snippets("A backend")
    copies = [tmp_path / "as_it_is", tmp_path / "with_backend"]
    for folder in copies:
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(KERNELS, folder / "hpr_kernels", ignore=ignore)
    recurrence = copies[1] / "hpr_kernels" / "recurrence"
    (recurrence / "in_double.py").write_text(module, encoding="utf-8")
    dispatch = recurrence / "dispatch.py"
    code = dispatch.read_text(encoding="utf-8")
    (forward,) = (
        node
        for node in ast.parse(code).body
        if isinstance(node, ast.FunctionDef) and node.name == "forward"
    )
    # The first statement is the docstring.
    after = forward.body[0].end_lineno
    assert after is not None
    kept = code.splitlines(keepends=True)
    kept.insert(after, textwrap.indent(lines, "    "))
    dispatch.write_text("".join(kept), encoding="utf-8")
    errors = []
    for folder in copies:
        done = child(["-c", ROUNDED, str(folder)], tmp_path, (folder,))
        assert done.returncode == 0, done.stderr
        errors.append(float(done.stdout))
    assert errors[0] > 2
    assert errors[1] <= 1


def test_the_page_has_a_tested_section_for_everything_in_its_table() -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| (an? \w+) \|", text, re.M)
    sections = [name.lower() for name in re.findall(r"^## (An? .*)$", text, re.M)]
    assert rows == sections
    tests = {
        name for name in globals() if name.startswith("test_an_") or name.startswith("test_a_")
    }
    assert {f"test_{row.replace(' ', '_')}" for row in rows} <= tests
