"""The site of docs/ builds strictly and offline, has the whole public API, and its tutorials run."""

from __future__ import annotations

import ast
import html
import importlib
import importlib.util
import inspect
import os
import re
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
TUTORIALS = sorted((DOCS / "tutorials").glob("*.md"))
CELL = re.compile(r"^```\{code-cell\}[^\n]*\n(.*?)^```$", re.M | re.S)
BROWSER = ROOT / "tests" / "hpr" / "report" / "chromium.py"
# What a page loads from elsewhere; links that a reader follows load nothing.
LOADED = re.compile(
    r"<(?:script|img|link|iframe|source|audio|video)\b[^>]*(?:src|href)=[\"']?(?:https?:)?//[^\"'> ]+"
    r"|url\(\s*[\"']?(?:https?:)?//[^)]*|@import\s+[^;]*//[^;]*"
)

# What the prose of a tutorial says of its numbers.
SAYS = {
    "figure_1": """
verdicts = {finding.claim.measure: finding.verdict for finding in findings}
assert verdicts["kernel_alignment"] == "agrees", verdicts
assert verdicts["final_loss"] == "disagrees", verdicts
losses = runs.groupby("rank")["final_loss"].mean()
assert losses.idxmax() == 1, losses
""",
    "own_connectome": """
assert abs(np.linalg.norm(W) / np.linalg.norm(null) - 1) < 1e-12
assert N < cells and len(by_start) == 6 and by_start.notna().all(axis=None)
""",
    "own_module": """
assert difference < 1e-12
spread = [kernel / kernel.diagonal().mean() for kernel in (K_gru, trained)]
gaps = [float(kernel[same].mean() - kernel[~same].mean()) for kernel in spread]
assert gaps[1] > 2 * gaps[0], gaps
at_boundary = x.sum(dim=(1, 2)).abs() < x.sum(dim=(1, 2)).abs().median()
diagonal = trained.diagonal()
assert diagonal[at_boundary].mean() > 1.5 * diagonal[~at_boundary].mean()
assert np.allclose(by_scipy, leading.numpy()) and np.allclose(leading.numpy(), whole[:5].numpy())
""",
    "lazy_and_rich": """
found = list(results.values())
for name, sign in (("error", -1), ("moved", -1), ("alignment", 1)):
    values = [sign * each[name] for each in found]
    assert values == sorted(values), (name, values)
assert max(results[alpha]["loss"] for alpha in (0.1, 0.3, 1.0)) < results[10.0]["loss"]
""",
}


def ours(folder: Path) -> dict[str, str]:
    """The environment of a process that finds the checkout."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    return {
        **os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg",
        "HPR_CACHE": str(folder / "cache"),
    }  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it, but for the outputs of the tutorials."""
    folder = tmp_path_factory.mktemp("site")
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    (line,) = re.findall(r"^docs:.*\n\t\$\(BIN\)/python (.*)$", text, re.M)
    words = line.split()
    assert words[:2] == ["-m", "sphinx"]
    assert {"-W", "-n"} <= set(words)
    assert words[-1] == "build/docs"
    command = [sys.executable, *words[:-1], str(folder), "-D", "nb_execution_mode=off"]
    done = subprocess.run(command, cwd=ROOT, env=ours(folder), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def entries(site: Path) -> set[str]:
    """The names of Python that the site has an entry for."""
    packed = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    lines = zlib.decompress(packed).decode().splitlines()
    return {line.split()[0] for line in lines if " py:" in line}


def public() -> set[str]:
    """Every public function and class, and what the pages on own parts import."""
    packages = (
        *("hpr", "hpr_kernels", "hpr_kernels.testing", "hpr.connectivity", "hpr.experiment"),
        *("hpr.figures", "hpr.sweeps", "hpr.tasks"),
    )
    found = [
        (package, name) for package in packages for name in importlib.import_module(package).__all__
    ]
    for page in ("adding.md", "own_experiment.md", "your_network.md"):
        text = (DOCS / page).read_text(encoding="utf-8")
        for module, imported in re.findall(r"^from (hpr\S*) import (.*)$", text, re.M):
            found += [(module, name.strip()) for name in imported.split(",")]
    values = {
        f"{module}.{name}": getattr(importlib.import_module(module), name, None)
        for module, name in found
    }
    return {
        name for name, value in values.items() if inspect.isroutine(value) or inspect.isclass(value)
    }


def test_every_public_function_and_class_has_an_entry(site: Path) -> None:
    found = entries(site)
    # The first is `hpr.sweep`, and the second is for code inside the package.
    elsewhere = {"hpr.sweeps.run_sweep", "hpr_kernels.backend.backend"}
    assert public() - found == elsewhere
    assert {"hpr_kernels.NTKOperator.matvec", "hpr_kernels.FactoredJacobian.gram"} <= found


def test_every_page_is_in_the_site(site: Path) -> None:
    pages = {path.relative_to(DOCS).with_suffix(".html").as_posix() for path in DOCS.rglob("*.md")}
    assert {page for page in pages if not (site / page).is_file()} == set()
    # The kernels' README is part of it by an inclusion.
    assert 'id="shapes"' in (site / "kernels.html").read_text(encoding="utf-8")


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    files = [path for path in site.rglob("*") if path.suffix in (".html", ".css", ".js")]
    assert len(files) > 60
    found = {path.name: LOADED.findall(path.read_text(encoding="utf-8")) for path in files}
    assert {name: urls for name, urls in found.items() if urls} == {}


@pytest.mark.parametrize(
    "planted",
    [
        '<script src="https://cdn.example/x.js">',
        "<link rel=stylesheet href=//fonts.example/a.css>",
        'src: url("https://fonts.example/a.woff")',
        '@import "https://fonts.example/a.css";',
    ],
)
def test_what_is_loaded_from_elsewhere_is_found(planted: str) -> None:
    assert LOADED.search(planted)
    assert not LOADED.search('<a class="reference external" href="https://example.org">')


def test_docstrings_keep_their_characters(site: Path) -> None:
    """Equations keep their lines, and no markup is left from code in backticks."""
    text = (site / "api" / "hpr_kernels.html").read_text(encoding="utf-8")
    plain = html.unescape(re.sub(r"<[^>]*>", "", text))
    assert "K_ij = (1 - rho)² Σ_{s,s'} ⟨g_s^i, g_s'^j⟩" in plain
    prose = re.sub(r"<pre>.*?</pre>|<[^>]*>", "", text, flags=re.S)
    assert [word for word in prose.split() if "`" in word or word.startswith(":py:")] == []
    fields = (site / "api" / "hpr.html").read_text(encoding="utf-8")
    assert "Standard deviation of Gaussian readout weights" in fields


def cells(page: Path) -> list[str]:
    """The code of a notebook's cells, without lines that only a notebook understands."""
    found: list[str] = CELL.findall(page.read_text(encoding="utf-8"))
    return [re.sub(r"^%.*\n", "", code, flags=re.M) for code in found]


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
@pytest.mark.nightly
def test_a_tutorial_runs_and_ends_with_a_picture(page: Path, tmp_path: Path) -> None:
    code = cells(page)
    last = "import matplotlib.pyplot as plt\nassert plt.get_fignums()\nplt.savefig('last.png')\n"
    # The second half of one page takes the name K for another kernel.
    kept = "K_gru = K\n" if page.stem == "own_module" else ""
    program = "\n".join([code[0], kept, *code[1:], last, "import numpy as np", SAYS[page.stem]])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=tmp_path, env=ours(tmp_path), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "last.png").stat().st_size > 5_000
    assert "plt.subplots" in code[-1] or "plt.subplots" in code[-2]
    assert ast.parse(code[-1])


def test_there_are_four_tutorials_and_the_build_runs_them() -> None:
    assert sorted(SAYS) == [page.stem for page in TUTORIALS]
    conf: dict[str, Any] = {"__file__": str(DOCS / "conf.py")}
    before = list(sys.path), os.environ.get("OMP_NUM_THREADS")
    exec(compile((DOCS / "conf.py").read_text("utf-8"), "conf.py", "exec"), conf)
    sys.path[:] = before[0]
    if before[1] is None:
        os.environ.pop("OMP_NUM_THREADS", None)
    assert conf["nb_execution_mode"] == "force"
    assert conf["nb_execution_raise_on_error"]
    for page in TUTORIALS:
        assert page.read_text(encoding="utf-8").startswith("---\nfile_format: mystnb\n")


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    specification = importlib.util.spec_from_file_location("chromium_of_the_site", BROWSER)
    assert specification is not None
    assert specification.loader is not None
    chromium = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(chromium)
    if chromium.browser() is None:
        pytest.skip("needs a Chromium on PATH, or named by HPR_CHROMIUM")
    page = chromium.Page(tmp_path_factory.mktemp("profile"))
    yield page
    page.close()


@pytest.mark.browser
@pytest.mark.parametrize("width", [1400, 400])
@pytest.mark.parametrize(
    "name", ["index", "api/hpr_kernels", "tutorials/figure_1", "gallery/figure_1"]
)
def test_a_page_in_a_browser(site: Path, window: Any, name: str, width: int) -> None:
    """It needs no network, says nothing on the console, loads its pictures, and is as wide as the window."""
    window.open(site / f"{name}.html", width=width)
    assert window.problems == []
    assert [url for url in window.requests if not url.startswith(("file:", "data:"))] == []
    shown = "[...document.images].every(image => image.complete && image.naturalWidth > 0)"
    assert window.run(shown)
    assert window.run("document.documentElement.scrollWidth") <= width
