"""Figures 7 to 13: what each of them changes in Figure 1, and which runs they share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hpr.connectivity import Dense, LowRank, SoftRank, spectral_radius
from hpr.experiment.specification import RunSpec
from hpr.figures import Figure, Settings, discover

PAPER = Settings(profile="paper", smnist="sMNIST")
QUICK = Settings()
NAMES = ("7", "8", "9", "10", "11", "12", "13")


@pytest.fixture(scope="module")
def figures() -> dict[str, Figure]:
    return discover()


def panels(figure: Figure, settings: Settings = PAPER) -> dict[str, tuple[str, ...]]:
    return {panel.name: panel.levels for panel in figure.panels(settings)}


RANKS = ("1", "30", "100", "300")
NEUROGYM = dict.fromkeys(("2AF", "DMS", "CXT"), RANKS)
PANELS = {
    "7": {**NEUROGYM, "sMNIST": ("5", "30", "300")},
    "8": dict.fromkeys(NEUROGYM, ("16", "4", "1", "0.25")),
    "9": {
        "N = 100": ("1", "30", "100"),
        "N = 300": RANKS,
        "N = 600": ("1", "30", "100", "300", "600"),
    },
    "10": dict.fromkeys(
        ("learning rate 0.001", "learning rate 0.003", "learning rate 0.01"), RANKS
    ),
    "11": dict.fromkeys(("g = 0.5", "g = 1", "g = 1.5", "g = 2"), RANKS),
    "12": NEUROGYM,
    "13": NEUROGYM,
}


@pytest.mark.parametrize("name", NAMES)
def test_the_paper_profile_has_these_panels(figures: dict[str, Figure], name: str) -> None:
    assert panels(figures[name]) == PANELS[name]


CHANGES: dict[str, dict[str, Any]] = {
    "7": {},
    "8": {},
    "9": {"N": {100, 300, 600}},
    "10": {"learning_rate": {1e-3, 3e-3, 1e-2}},
    "11": {},
    "12": {"dt": {20.0}},
    "13": {},
}


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_changes_one_thing_of_figure_1(figures: dict[str, Figure], name: str) -> None:
    """Its runs have the fields of Figure 1's, except for the weights and the field that the figure sweeps."""
    usual = {spec.shape for spec in figures["1"].runs(PAPER)}
    default = RunSpec("2AF", Dense(), 0)
    for field, values in CHANGES[name].items():
        assert {getattr(spec, field) for spec in figures[name].runs(PAPER)} == values
    for spec in figures[name].runs(PAPER):
        restored = {field: getattr(default, field) for field in CHANGES[name]}
        assert replace(spec, connectivity=Dense(), seed=0, **restored).shape in usual


def test_the_weights_are_those_named(figures: dict[str, Figure]) -> None:
    structures = {name: {spec.connectivity for spec in figures[name].runs(PAPER)} for name in NAMES}
    assert {each.distribution for each in structures["7"]} == {"uniform"}
    assert structures["8"] == {SoftRank(gain=1.5, k=k) for k in (16, 4, 1, 0.25)}
    assert {each.gain for each in structures["11"]} == {0.5, 1.0, 1.5, 2.0}
    assert {each.rescale for each in structures["13"]} == {"eigenvalue"}
    assert {each.gain for name in NAMES if name != "11" for each in structures[name]} == {1.5}
    assert all(spec.rho == pytest.approx(np.exp(-0.2)) for spec in figures["12"].runs(PAPER))


def test_runs_that_figures_share_are_trained_once(figures: dict[str, Figure]) -> None:
    """Panels at Figure 1's setting are its runs; in `quick`, Figures 9, 10 and 11 share their small networks."""
    first = set(figures["1"].runs(PAPER))
    for name in ("9", "10", "11"):
        assert len(first & set(figures[name].runs(PAPER))) == 40
    assert len(set(figures["1"].runs(QUICK)) & set(figures["9"].runs(QUICK))) == 24
    nine, ten, eleven = (set(figures[name].runs(QUICK)) for name in ("9", "10", "11"))
    assert len(nine & ten & eleven) == 18


@pytest.mark.parametrize("name", NAMES)
def test_quick_ends_at_full_rank_too(figures: dict[str, Figure], name: str) -> None:
    for panel in figures[name].panels(QUICK):
        last = panel.runs[-1][0]
        if isinstance(last.connectivity, LowRank):
            assert last.connectivity.rank == last.N
        assert len(panel.runs) >= 3
        assert len(panel.runs[0]) == 6


def test_fixing_the_eigenvalue_fixes_it(figures: dict[str, Figure]) -> None:
    [panel] = [panel for panel in figures["13"].panels(QUICK) if panel.name == "CXT"]
    found = [spectral_radius(level[0].connectivity.draw(100, 0)) for level in panel.runs]
    np.testing.assert_allclose(found, found[-1], rtol=1e-6)


def records(figure: Figure, weak: float) -> dict[str, dict[str, Any]]:
    """Trends as in the paper; at g = 0.5 they are `weak` times as large as at the other gains."""
    written = {}
    for panel in figure.panels(QUICK):
        size = weak if panel.name == "g = 0.5" else 1.0
        for l, level in enumerate(panel.runs):
            for spec in level:
                rise = size * l + 0.02 * np.random.default_rng([spec.seed, l]).normal()
                written[spec.key] = {
                    "key": spec.key,
                    "status": "finished",
                    "measures": {
                        "weight_change_norm": 9 - rise,
                        "representation_alignment": rise,
                        "kernel_alignment": rise,
                        "final_loss": 0.03,
                    },
                }
    return written


@pytest.mark.parametrize("name", NAMES)
def test_trends_as_the_paper_has_them_agree(figures: dict[str, Figure], name: str) -> None:
    figure = figures[name]
    findings = figure.judge(QUICK, records(figure, weak=0.3))
    assert {finding.verdict for finding in findings} == {"agrees"}
    assert [finding.claim for finding in findings] == figure.claims(QUICK)


def test_a_small_gain_must_weaken_the_trends(figures: dict[str, Figure]) -> None:
    figure = figures["11"]
    weaker = {
        (finding.verdict, finding.statistics[0].effect < 0): finding.claim.levels
        for finding in figure.judge(QUICK, records(figure, weak=2.0))
        if finding.claim.panel == "g = 0.5"
    }
    assert weaker == {("disagrees", False): ("g = 1.5", "g = 0.5")}


def test_every_picture_draws_without_a_record(figures: dict[str, Figure]) -> None:
    for name in NAMES:
        picture = figures[name].plot(Settings(seeds=1), {})
        columns = len(figures[name].panels(QUICK))
        assert len(picture.axes) == 3 * columns
