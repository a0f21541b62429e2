"""Figures are found in the modules of the package and by the entry points of other distributions."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hpr.figures import Settings, definitions, discover
from hpr.figures.summary import write_figure

EXTRA = """
from hpr.figures import Figure
from hpr.figures.claims import Claim, Finding

class Runless(Figure):
    title = "No runs"
    def __init__(self, name):
        self.name = name
    def claims(self, settings):
        return [Claim("Eq. 7", "error", "comparable", "they are equal")]
    def judge(self, settings, records):
        return [Finding(claim, "agrees", 0, (), (), ()) for claim in self.claims(settings)]
    def plot(self, settings, records):
        from matplotlib.figure import Figure as Canvas
        return Canvas()

FIGURES = (Runless("runless"),)
MORE = [Runless("20")]
TAKEN = [Runless("16")]
NAMELESS = [Figure]
NUMBERS = (1, 2)
"""
Install = Callable[[str], Path]


@pytest.fixture
def one_more_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "extra.py").write_text(EXTRA)
    paths = [*definitions.__path__, str(tmp_path / "modules")]
    monkeypatch.setattr(definitions, "__path__", paths)
    yield
    del sys.modules["hpr.figures.definitions.extra"]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a distribution with these entry points of the group in a folder of the import path."""
    site = tmp_path / "site"

    def installed(entries: str) -> Path:
        metadata = site / "more_figures-1.0.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: more-figures\nVersion: 1.0\n"
        )
        (metadata / "entry_points.txt").write_text(f"[hpr.figures]\n{entries}\n")
        (site / "more_figures.py").write_text(EXTRA)
        (site / "broken_figures.py").write_text("raise RuntimeError('no data\\nhere')")
        monkeypatch.syspath_prepend(site)
        return site

    yield installed
    for name in ("more_figures", "broken_figures"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("one_more_file")
def test_a_figure_is_added_by_one_file_and_may_have_no_runs(tmp_path: Path) -> None:
    settings = Settings()
    figures = discover()
    assert "1" in figures
    runless = figures["runless"]
    assert runless.runs(settings) == []
    content = write_figure(runless, settings, {}, {}, tmp_path)
    assert content["verdicts"] == {"agrees": 1}
    assert "**agrees**" in (tmp_path / "figure_runless.md").read_text()


def test_figures_of_an_installed_distribution_are_found_in_their_order(install: Install) -> None:
    usual = list(discover())
    install("module = more_figures\nlist = more_figures:MORE")
    numbers = [name for name in usual if name.isdigit()]
    words = [name for name in usual if not name.isdigit()]
    assert list(discover()) == [*numbers, "20", *sorted([*words, "runless"])]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("x = no_such_module", "expected figures, got ModuleNotFoundError: No module named"),
        ("x = more_figures:NOTHING", "expected figures, got AttributeError: "),
        ("x = broken_figures", "expected figures, got RuntimeError: no data here"),
        ("x = json", "expected a module with FIGURES or a sequence of named figures, got "),
        ("x = more_figures:NUMBERS", "a sequence of named figures, got (1, 2)"),
        ("x = more_figures:NAMELESS", "a sequence of named figures, got ["),
    ],
    ids=["no module", "no attribute", "raises", "no FIGURES", "numbers", "classes"],
)
def test_a_broken_entry_point_is_named_in_one_line(
    install: Install, entry: str, message: str
) -> None:
    install(entry)
    with pytest.raises(ImportError) as caught:
        discover()
    [line] = str(caught.value).splitlines()
    assert line.startswith(f"entry point {entry} of hpr.figures: expected ")
    assert message in line


def test_a_name_that_is_taken_is_one_line_of_the_command(install: Install) -> None:
    site = install("taken = more_figures:TAKEN")
    program = f"import sys; sys.path.insert(0, {str(site)!r}); from hpr.reproduce import main; main(['--list'])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "hpr.reproduce: error: figure 16: expected one definition, got a second in "
        "entry point taken = more_figures:TAKEN of hpr.figures\n"
    )


def test_discovery_imports_neither_what_draws_nor_what_writes() -> None:
    program = (
        "import sys; from hpr.figures import discover; discover(); "
        "print(*(name for name in sys.modules if name.startswith(('hpr.figures', 'matplotlib'))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert "hpr.figures.definitions.rank_sweep" in loaded
    assert (
        not {"matplotlib", "hpr.figures.draw", "hpr.figures.summary", "hpr.figures.pages"} & loaded
    )
