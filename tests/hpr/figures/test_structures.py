"""Figures of biological structures: nulls of the same size, runs that figures share, claims tested in pairs."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpr.connectivity import EM, CellTypes, ChainMotif, Dale, LowRank
from hpr.connectivity.connectome import keep, read_folder
from hpr.experiment.specification import RunSpec
from hpr.figures import Figure, Settings, discover
from hpr.figures.draw.spectra import draw_boxes, ranks
from hpr.figures.panel import Panel
from hpr.figures.summary import write_figure

PAPER = Settings(profile="paper", smnist="sMNIST")
QUICK = Settings()
# Spectra are computed from real matrices. Two seeds are enough where only the form of the files is tested.
FEW = Settings(seeds=2, iterations=7)


@pytest.fixture(scope="module")
def figures() -> dict[str, Figure]:
    return discover()


def record(spec: RunSpec, richer: float) -> dict[str, Any]:
    noise = 0.01 * np.random.default_rng([spec.seed, spec.N]).normal()
    return {
        "schema": 1,
        "key": spec.key,
        "spec": spec.to_dict(),
        "status": "finished",
        "iterations": spec.iterations,
        "measures": {
            "weight_change_norm": 1 + richer + noise,
            "representation_alignment": 0.99 - 0.1 * richer + noise,
            "kernel_alignment": 0.6 - 0.3 * richer + noise,
            "final_loss": 0.033 + noise / 100,
            "final_accuracy": 0.98,
            "connectivity_effective_rank": 0.65 - 0.3 * richer + noise,
        },
        "flags": [],
        "provenance": {"versions": {}, "device": "cpu", "git": None},
    }


def richer(spec: RunSpec) -> float:
    """How much richer learning is: 0 for nulls and shuffled connectomes, else about 1, differing between seeds."""
    plain = isinstance(spec.connectivity, LowRank) or getattr(spec.connectivity, "shuffled", False)
    return 0.0 if plain else 1.0 + spec.seed / 50


def records(figure: Figure, settings: Settings) -> dict[str, dict[str, Any]]:
    return {spec.key: record(spec, richer(spec)) for spec in figure.runs(settings)}


@pytest.mark.parametrize(("name", "task"), [("2", "2AF"), ("5", "DMS"), ("6", "CXT")])
def test_the_paper_profile_is_the_papers(figures: dict[str, Figure], name: str, task: str) -> None:
    panels = figures[name].panels(PAPER)
    found = [(panel.levels, panel.runs[0][0].N) for panel in panels]
    assert found == [
        (("null", "touching", "within"), 300),
        (("null", "EM stand-in"), 297),
        (("null", "Dale"), 300),
        (("null", "over", "under"), 100),
    ]
    runs = figures[name].runs(PAPER)
    assert {(spec.task, spec.iterations) for spec in runs} == {(task, 10_000)}
    # Cell types and Dale's law share their null at N = 300.
    assert len(runs) == 10 * 9
    structures = {spec.connectivity for spec in runs if not isinstance(spec.connectivity, LowRank)}
    assert structures == {
        CellTypes(gain=1.5),
        CellTypes(gain=1.5, connections="within"),
        EM(gain=1.5),
        Dale(gain=1.5),
        ChainMotif(gain=1.5, tau_chn=0.03),
        ChainMotif(gain=1.5, tau_chn=-0.1),
    }


@pytest.mark.parametrize("settings", [PAPER, QUICK], ids=["paper", "quick"])
def test_runs_that_figures_share_are_the_same(
    figures: dict[str, Figure], settings: Settings
) -> None:
    first, second = (set(figures[name].runs(settings)) for name in ("1", "2"))
    assert len(first & second) == len(settings.replicates)
    assert set(figures["19"].runs(settings)) - second == {
        spec
        for spec in figures["19"].runs(settings)
        if getattr(spec.connectivity, "shuffled", False)
    }
    assert len(set(figures["17"].runs(settings)) - second) == len(settings.replicates)


def test_dale_throughout_is_asked_of_training(figures: dict[str, Figure]) -> None:
    [panel] = figures["17"].panels(QUICK)
    assert {spec.connectivity for spec in panel.runs[1]} == {Dale(gain=1.5, dale_throughout=True)}


def test_quick_is_the_paper_with_fewer_seeds_and_iterations_only(
    figures: dict[str, Figure],
) -> None:
    for name in ("2", "5", "6", "17", "19"):
        lengthened = {replace(spec, iterations=10_000) for spec in figures[name].runs(QUICK)}
        whole = figures[name].runs(replace(PAPER, smnist="sDigits"))
        assert lengthened == {spec for spec in whole if spec.seed < 6}


def test_the_released_variant_has_its_gain_everywhere(figures: dict[str, Figure]) -> None:
    for spec in figures["2"].runs(replace(PAPER, variant="released")):
        assert spec.connectivity.gain == 1.25


@pytest.mark.parametrize(
    ("name", "number"), [("2", 28), ("5", 28), ("6", 28), ("17", 5), ("19", 5)]
)
def test_records_as_the_paper_has_them_agree_with_it(
    figures: dict[str, Figure], name: str, number: int
) -> None:
    figure = figures[name]
    findings = figure.judge(QUICK, records(figure, QUICK))
    assert len(findings) == number
    assert {finding.verdict for finding in findings} == {"agrees"}
    assert [finding.claim for finding in findings] == figure.claims(QUICK)


def test_records_of_no_difference_agree_with_nothing_but_equal_losses(
    figures: dict[str, Figure],
) -> None:
    for name in ("2", "19"):
        runs = figures[name].runs(QUICK)
        findings = figures[name].judge(QUICK, {spec.key: record(spec, 0.0) for spec in runs})
        verdicts = {f.verdict for f in findings if f.claim.measure != "final_loss"}
        assert verdicts == {"inconclusive"}


def test_what_is_poorer_from_the_connectome_has_not_vanished_when_shuffled(
    figures: dict[str, Figure],
) -> None:
    """Every effect of EM is the reverse of the paper's, and shuffling removes it."""
    figure = figures["19"]
    written = {spec.key: record(spec, -richer(spec)) for spec in figure.runs(QUICK)}
    for finding in figure.judge(QUICK, written):
        if finding.claim.kind == "vanishes":
            assert finding.verdict == "inconclusive"
            assert finding.notes == (
                "nothing to vanish: EM stand-in differs the other way from null",
            )


def test_a_missing_run_leaves_out_its_seed_of_its_own_claims_only(
    figures: dict[str, Figure],
) -> None:
    figure = figures["2"]
    written = records(figure, PAPER)
    [lost] = [
        s for s in figure.runs(PAPER) if s.connectivity == CellTypes(gain=1.5) and s.seed == 3
    ]
    del written[lost.key]
    counts = {
        finding.claim.levels: finding.seeds
        for finding in figure.judge(PAPER, written)
        if finding.claim.measure == "kernel_alignment" and finding.claim.panel == "A cell types"
    }
    assert counts == {("null", "touching"): 9, ("null", "within"): 10}


def test_singular_spectra_need_no_training_and_agree(figures: dict[str, Figure]) -> None:
    figure = figures["16"]
    assert figure.runs(QUICK) == []
    findings = figure.judge(QUICK, {})
    assert [finding.claim.panel for finding in findings] == [
        "A cell types", "A cell types", "B EM stand-in", "C Dale's law", "D chain motifs", "D chain motifs",
    ]  # fmt: skip
    assert {finding.verdict for finding in findings} == {"agrees"}
    assert {finding.seeds for finding in findings} == {6}


@pytest.mark.parametrize("name", ["2", "16", "17", "19"])
def test_the_same_records_give_the_same_files_and_a_stand_in_is_labelled(
    figures: dict[str, Figure], name: str, tmp_path: Path
) -> None:
    written = records(figures[name], FEW)
    for folder in ("a", "b"):
        write_figure(figures[name], FEW, written, {}, tmp_path / folder)
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert names == {f"figure_{name}.{ending}" for ending in ("json", "md", "pdf", "png", "svg")}
    for each in names:
        assert (tmp_path / "a" / each).read_bytes() == (tmp_path / "b" / each).read_bytes()
    text = (tmp_path / "a" / f"figure_{name}.md").read_text()
    assert ("C. elegans" in text) == (name != "17")
    assert ("EM stand-in" in text) == (name != "17")
    assert ("one connectome" in text) == (name != "17")
    # The text has no identifiers, and names no task for sMNIST where no run sees pictures.
    assert "effective_rank" not in text
    assert "sMNIST's place" not in text


@pytest.mark.usefixtures("empty_cache")
def test_a_connectome_of_ones_own_takes_the_stand_ins_place(
    figures: dict[str, Figure], tmp_path: Path
) -> None:
    cells = [f"c{n}" for n in range(12)]
    (tmp_path / "cells.csv").write_text(
        "pt_root_id,classification_system\n" + "".join(f"{cell},e\n" for cell in cells)
    )
    (tmp_path / "synapses.csv").write_text(
        "pre_pt_root_id,post_pt_root_id,size\n"
        + "".join(f"{a},{b},{n + 1}\n" for n, (a, b) in enumerate(pairwise(cells)))
        + "c11,c0,5\n"
    )
    settings = replace(FEW, connectome=keep(read_folder(tmp_path)))
    figure = figures["19"]
    assert {spec.N for spec in figure.runs(settings)} == {12}
    written = records(figure, settings)
    content = write_figure(figure, settings, written, {}, tmp_path / "out")
    assert not any("C. elegans" in note for note in content["notes"])
    assert "stand-in" not in (tmp_path / "out" / "figure_19.md").read_text()
    [title] = [axes.get_title(loc="left") for axes in figure.plot(settings, written).axes][:1]
    assert title == "EM (N = 12)"


def test_no_run_at_all_still_gives_every_file(figures: dict[str, Figure], tmp_path: Path) -> None:
    content = write_figure(figures["2"], FEW, {}, {}, tmp_path)
    assert content["verdicts"] == {"inconclusive": 28}
    assert len(content["failed"]) == len(figures["2"].runs(FEW))
    assert (tmp_path / "figure_2.png").stat().st_size > 1000
    assert json.loads((tmp_path / "figure_2.json").read_text())["settings"]["connectome"]


def test_effective_ranks_are_those_that_a_run_records(figures: dict[str, Figure]) -> None:
    from hpr.connectivity import effective_rank

    panel: Panel = figures["2"].panels(FEW)[3]
    found = ranks(panel, singular=False)
    assert found.shape == (2, 3)
    spec = panel.runs[1][0]
    assert found[0, 1] == pytest.approx(effective_rank(spec.connectivity.draw(100, 0)))


def test_every_run_is_a_dot_on_its_box() -> None:
    from matplotlib.figure import Figure as Canvas

    axes = Canvas().subplots()
    values = np.array([[1.0, 2.0], [3.0, np.nan], [5.0, 4.0]])
    draw_boxes(axes, values, ("null", "EM"), [[], ["diverged"]])
    dots = [np.ma.filled(each.get_offsets(), np.nan) for each in axes.collections]
    assert [each[:, 1] for each in dots] == [
        pytest.approx(column, nan_ok=True) for column in values.T
    ]
    medians = [line for line in axes.lines if line.get_linewidth() == 1.2]
    assert [line.get_ydata()[0] for line in medians] == [3.0, 3.0]
    assert axes.get_yscale() == "linear"
    assert [note.get_text() for note in axes.texts] == ["1 of 3\ndiverged"]


@pytest.mark.parametrize(("unbounded", "scale"), [(True, "log"), (False, "linear")])
def test_weight_changes_of_unlike_size_have_a_logarithmic_axis(unbounded: bool, scale: str) -> None:
    from matplotlib.figure import Figure as Canvas

    axes = Canvas().subplots()
    values, gaps = np.array([[1.0, 200.0], [1.2, 300.0]]), [[], ["diverged"]]
    draw_boxes(axes, values, ("null", "EM"), gaps, unbounded=unbounded)
    assert axes.get_yscale() == scale
    if unbounded:
        assert 0 < axes.get_ylim()[0] < 1
