"""Figures 3, 4 and 18: their runs, and the data on which their claims are judged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.text import Text

from hpr.experiment.specification import RunSpec
from hpr.figures import Figure, Settings, discover
from hpr.figures.definitions.aligned_weights import TEACHER_SEED
from hpr.figures.summary import write_figure

QUICK = Settings()
PAPER = Settings(profile="paper", smnist="sMNIST")
FIGURES = discover()


def records(
    figure: Figure, settings: Settings, alignment: Callable[[RunSpec], float]
) -> dict[str, dict[str, Any]]:
    made = {}
    for spec in figure.runs(settings):
        noise = 1e-4 * np.random.default_rng([spec.seed, int(spec.key[:8], 16)]).normal()
        richness = 1 - alignment(spec)
        made[spec.key] = {
            "key": spec.key,
            "status": "finished",
            "iterations": spec.iterations,
            "measures": {
                "weight_change_norm": 1 + richness + noise,
                "representation_alignment": 1 - richness + noise,
                "kernel_alignment": 1 - richness + noise,
                "final_loss": 0.1 + noise / 100,
            },
            "flags": [],
            "provenance": {},
        }
    return made


def as_the_paper_has_it(spec: RunSpec) -> float:
    kappa = float(spec.task.partition("kappa=")[2].rstrip(")") or 10)
    if spec.aligned is None:
        return 0.5 + 0.05 * np.log10(getattr(spec.connectivity, "rank", 1000))
    return 0.9 if not spec.aligned.startswith("dominant") else 0.4 + 0.1 * min(kappa, 5)


@pytest.mark.parametrize("settings", [QUICK, PAPER], ids=["quick", "paper"])
def test_figure_3_pairs_its_settings(settings: Settings) -> None:
    figure = FIGURES["3"]
    first, *students = figure.runs(settings)
    assert (first.seed, first.keep_weights) == (TEACHER_SEED, True)
    recurrent = [spec for spec in students if spec.model == "leaky_rnn"]
    assert {spec.teacher for spec in recurrent} == {first}
    linear = [spec for spec in students if spec.model == "two_layer"]
    assert len(linear) == 11 * 4 * len(settings.replicates)
    assert {(spec.batch, spec.learning_rate, spec.momentum) for spec in linear} == {
        (256, 3e-3, 0.0)
    }
    if settings.profile == "paper":
        assert {spec.N for spec in linear} == {1000}
    # All runs of a panel fit into one pack: they differ in weights and seeds alone.
    for panel in figure.panels(settings):
        assert len({spec.shape for level in panel.runs for spec in level}) == 1


def test_figure_3_agrees_with_records_as_the_paper_has_them() -> None:
    figure = FIGURES["3"]
    findings = figure.judge(QUICK, records(figure, QUICK, as_the_paper_has_it))
    assert [finding.claim for finding in findings] == figure.claims(QUICK)
    assert {finding.verdict for finding in findings} == {"agrees"}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (lambda spec: spec.aligned == "directions", {"aligned"}),
        (lambda spec: "dominant" in str(spec.aligned), {"partially aligned", "more so"}),
    ],
    ids=["aligned", "partially aligned"],
)
def test_each_claim_of_figure_3_judges_its_own_levels(
    changed: Callable[[RunSpec], bool], expected: set[str]
) -> None:
    """Where one kind of weights is worse than all others, the claims about it disagree and no others do."""
    figure = FIGURES["3"]

    def alignment(spec: RunSpec) -> float:
        usual = as_the_paper_has_it(spec)
        return -usual if changed(spec) else usual

    for finding in figure.judge(QUICK, records(figure, QUICK, alignment)):
        claim = finding.claim
        about = "more so" if claim.kind == "rises" else claim.levels[-1]
        concerned = about in expected and not (
            expected == {"aligned"} and claim.panel.startswith("C features")
        )
        assert finding.verdict == ("disagrees" if concerned else "agrees"), claim


def test_the_small_print_of_figure_3_speaks_for_all_its_panels() -> None:
    picture = FIGURES["3"].plot(PAPER, records(FIGURES["3"], PAPER, as_the_paper_has_it))
    words = " ".join(" ".join(text.get_text().split()) for text in picture.findobj(Text))
    assert (
        "N = 1,000 (B d = 2, B d = 20, B d = 100), 300 (C); 3,000 (B d = 2, B d = 20, B d = 100), "
        "10,000 (C) iterations; C: to 97% training accuracy, if sooner" in words
    )
    for settings in (QUICK, PAPER):
        alike: dict[str, set[tuple[object, ...]]] = {}
        for panel in FIGURES["3"].panels(settings):
            spec = panel.runs[0][0]
            numbers = (spec.N, spec.iterations, spec.stop_accuracy)
            letter, *rest = panel.name.split()
            alike.setdefault(rest[0] if letter == "B" else letter, set()).add(numbers)
        assert {len(numbers) for numbers in alike.values()} == {1}


def test_random_weights_of_low_rank_are_beside_aligned_ones_of_their_rank() -> None:
    """Features: the dominant half of the teacher has rank 150. Directions: there are 10, one per output."""
    figure = FIGURES["3"]
    panels = {panel.name: panel for panel in figure.panels(PAPER)}
    found = {}
    for claim in figure.claims(PAPER):
        if claim.panel.startswith("C") and claim.levels[0] == "random low-rank":
            [low_rank, _] = panels[claim.panel].only(claim.levels).runs
            found[claim.panel] = (claim.levels[1], low_rank[0].connectivity.rank)
            assert ("low-rank weights" in claim.says) == (claim.panel == "C directions")
    assert found == {"C features": ("partially aligned", 150), "C directions": ("aligned", 10)}


@pytest.mark.parametrize("name", ["3", "14", "15"])
def test_kernels_of_pictures_are_the_papers_but_in_quick(name: str) -> None:
    for settings, trials in ((PAPER, 200), (QUICK, 50)):
        pictures = [s for s in FIGURES[name].runs(settings) if s.model == "leaky_rnn"]
        assert {spec.kernel_trials for spec in pictures} == {trials}


@pytest.mark.parametrize(
    ("name", "words"),
    [(n, ["momentum 0"]) for n in ("4", "14", "15")]
    + [("3", ["momentum 0", "one norm", "input weights"]), ("18", ["rank 5"])],
)
def test_what_a_figure_does_otherwise_is_noted(name: str, words: list[str]) -> None:
    for note, word in zip(FIGURES[name].notes(QUICK), words, strict=True):
        assert word in note


def test_the_paper_profile_of_figure_4_is_the_papers() -> None:
    panels = FIGURES["4"].panels(PAPER)
    assert [(panel.name, panel.levels) for panel in panels] == [
        ("A linear, d = 2", ("1", "2")),
        ("A linear, d = 20", ("1", "5", "20")),
        ("A linear, d = 100", ("1", "10", "100")),
        ("B MNIST", ("1", "30", "100", "300")),
    ]
    linear, mnist = panels[0].runs[0][0], panels[3].runs[0][0]
    # Entries of W_1 are N(0, σ²) with σ = 0.001: g = σ √d.
    assert linear.connectivity.gain == pytest.approx(0.001 * 2**0.5)
    assert (linear.N, linear.readout_deviation, linear.activation) == (1000, 0.001, "linear")
    assert (mnist.N, mnist.activation, mnist.model) == (300, "relu", "two_layer")


def test_figure_4_agrees_with_records_as_the_paper_has_them() -> None:
    figure = FIGURES["4"]
    findings = figure.judge(QUICK, records(figure, QUICK, as_the_paper_has_it))
    assert len(findings) == 10
    assert {finding.verdict for finding in findings} == {"agrees"}


def test_figure_18_is_a_regression_of_one_trial() -> None:
    for spec in FIGURES["18"].runs(PAPER):
        assert (spec.task, spec.dt, spec.batch, spec.trials, spec.N) == (
            "pattern generation", 20.0, 1, 1, 300
        )  # fmt: skip
    assert len(FIGURES["18"].runs(PAPER)) == 40


@pytest.mark.parametrize("name", ["3", "4"])
def test_missing_runs_are_named_and_the_picture_is_drawn(name: str, tmp_path: Path) -> None:
    figure = FIGURES[name]
    made = records(figure, QUICK, as_the_paper_has_it)
    lost = figure.runs(QUICK)[-1]
    del made[lost.key]
    content = write_figure(figure, QUICK, made, {}, tmp_path)
    assert content["failed"] == [{"run": str(lost), "reason": "not run"}]
    assert any("stand-in" in note for note in content["notes"])
    words = {note.get_text() for axes in figure.plot(QUICK, made).axes for note in axes.texts}
    assert words == {"1 of 6\nnot run"}
