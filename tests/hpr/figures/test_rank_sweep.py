"""Figure 1: its runs are the paper's, and its files are a function of the records alone."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpr.connectivity import LowRank
from hpr.experiment.specification import RunSpec
from hpr.figures import Figure, Settings, discover
from hpr.figures.draw.plotting import describe, sweep_dots
from hpr.figures.summary import write_figure, write_summary

PAPER = Settings(profile="paper", smnist="sMNIST")
QUICK = Settings()


@pytest.fixture(scope="module")
def figure() -> Figure:
    return discover()["1"]


def record(spec: RunSpec, **changes: Any) -> dict[str, Any]:
    """A run that agrees with the paper up to a little noise."""
    assert isinstance(spec.connectivity, LowRank)
    richness = 1 - math.log(spec.connectivity.rank) / math.log(300)
    noise = 0.01 * np.random.default_rng([spec.seed, spec.connectivity.rank]).normal()
    return {
        "schema": 1,
        "key": spec.key,
        "spec": spec.to_dict(),
        "status": "finished",
        "iterations": spec.iterations,
        "curves": {"iteration": [], "loss": [], "accuracy": []},
        "measures": {
            "weight_change_norm": 1 + richness + noise,
            "representation_alignment": 0.99 - 0.1 * richness + noise / 10,
            "kernel_alignment": 0.6 - 0.3 * richness + noise,
            "final_loss": 0.033 + noise / 100,
            "final_accuracy": 0.98,
        },
        "flags": [],
        "provenance": {"versions": {}, "device": "cpu", "git": None},
        "timings": {},
        **changes,
    }


def test_the_small_print_says_who_may_stop_before_the_last_iteration(figure: Figure) -> None:
    said = describe(PAPER, figure.panels(PAPER))
    assert said.endswith("10,000 iterations; sMNIST: to 97% training accuracy, if sooner")
    assert describe(PAPER, figure.panels(PAPER)[:3]).endswith("10,000 iterations")


def records(figure: Figure, settings: Settings) -> dict[str, dict[str, Any]]:
    return {spec.key: record(spec) for spec in figure.runs(settings)}


def test_the_paper_profile_is_the_papers(figure: Figure) -> None:
    panels = figure.panels(PAPER)
    assert [(panel.name, panel.levels) for panel in panels] == [
        ("2AF", ("1", "30", "100", "300")),
        ("DMS", ("1", "30", "100", "300")),
        ("CXT", ("1", "30", "100", "300")),
        ("sMNIST", ("5", "30", "300")),
    ]
    runs = figure.runs(PAPER)
    assert len(runs) == 150
    assert runs[0] == RunSpec(task="2AF", connectivity=LowRank(gain=1.5, rank=1), seed=0)
    assert runs[-1] == RunSpec(
        task="sMNIST",
        connectivity=LowRank(gain=1.5, rank=300),
        seed=9,
        task_version="1",
        batch=200,
        stop_accuracy=0.97,
        trials=200,
        kernel_trials=200,
    )


def test_the_released_variant_changes_leak_gain_and_kernel_together(figure: Figure) -> None:
    for spec in figure.runs(replace(PAPER, variant="released")):
        assert (spec.variant, spec.leak, spec.rho) == ("released", "euler", 0.0)
        assert spec.connectivity.gain == 1.25
        assert spec.ntk_parameters == ("recurrent",)


def test_quick_is_the_paper_with_fewer_seeds_and_iterations_only(figure: Figure) -> None:
    quick = figure.runs(QUICK)
    whole = figure.runs(Settings(profile="paper"))
    lengthened = {replace(spec, iterations=10_000) for spec in quick}
    assert lengthened == {spec for spec in whole if spec.seed < 6}
    assert max(spec.iterations for spec in quick) < 10_000


def test_seeds_and_iterations_can_be_set(figure: Figure) -> None:
    runs = figure.runs(Settings(profile="paper", seeds=2, iterations=7))
    assert {spec.seed for spec in runs} == {0, 1}
    assert {spec.iterations for spec in runs} == {7}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"profile": "slow"}, r"profile: expected one of \('quick', 'paper'\), got 'slow'"),
        ({"variant": "mine"}, "variant: expected one of"),
        ({"smnist": "MNIST"}, "smnist: expected one of"),
        ({"seeds": 0}, "seeds: expected an integer of at least 1, got 0"),
        ({"iterations": 1.5}, "iterations: expected an integer of at least 1, got 1.5"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_settings_are_refused_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**change)


def test_records_as_the_paper_has_them_agree_with_it(figure: Figure) -> None:
    findings = figure.judge(QUICK, records(figure, QUICK))
    assert len(findings) == 16
    assert {finding.verdict for finding in findings} == {"agrees"}
    assert [finding.claim for finding in findings] == figure.claims(QUICK)


def test_a_reversed_measure_alone_disagrees(figure: Figure) -> None:
    reversed_ = records(figure, QUICK)
    for each in reversed_.values():
        if each["spec"]["task"] == "DMS":
            each["measures"]["kernel_alignment"] *= -1
    verdicts = {
        (finding.claim.panel, finding.claim.measure): finding.verdict
        for finding in figure.judge(QUICK, reversed_)
    }
    assert [which for which, verdict in verdicts.items() if verdict == "disagrees"] == [
        ("DMS", "kernel_alignment")
    ]


def test_the_same_records_give_the_same_files(figure: Figure, tmp_path: Path) -> None:
    written = records(figure, QUICK)
    for folder in ("a", "b"):
        content = write_figure(figure, QUICK, written, {}, tmp_path / folder)
        write_summary(QUICK, [content], [], tmp_path / folder)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == [
        "figure_1.json", "figure_1.md", "figure_1.pdf", "figure_1.png", "figure_1.svg",
        "summary.json", "summary.md",
    ]  # fmt: skip
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_what_is_missing_is_named_everywhere_and_averaged_nowhere(
    figure: Figure, tmp_path: Path
) -> None:
    settings = Settings(profile="paper")
    written = records(figure, settings)
    low = [s for s in figure.runs(settings) if s.task == "sDigits" and "rank 5" in str(s)]
    diverged, dead, absent = low[3], low[4], low[5]
    written[diverged.key].update(status="diverged", iterations=77, measures={})
    written[dead.key]["measures"]["kernel_alignment"] = None
    written[dead.key]["flags"] = ["kernel_alignment is not a number"]
    del written[absent.key]
    write_figure(figure, settings, written, {absent.key: "MemoryError: too big"}, tmp_path)

    content = json.loads((tmp_path / "figure_1.json").read_text())
    assert content["failed"] == [
        {"run": str(diverged), "reason": "diverged after 77 iterations"},
        {"run": str(absent), "reason": "MemoryError: too big"},
    ]
    assert [flagged["run"] for flagged in content["flagged"]] == [str(dead)]
    kernel = content["measurements"]["sMNIST stand-in"]["kernel_alignment"]
    assert [level["n"] for level in kernel] == [7, 10, 10]
    change = content["measurements"]["sMNIST stand-in"]["weight_change_norm"]
    assert [level["n"] for level in change] == [8, 10, 10]
    [claim] = [
        c
        for c in content["claims"]
        if c["claim"]["panel"] == "sMNIST stand-in" and c["claim"]["measure"] == "kernel_alignment"
    ]
    assert claim["seeds"] == 7
    assert claim["notes"] == [
        "3 of 10 seeds left out (rank 5 seed 3: diverged; rank 5 seed 4: undefined; "
        "rank 5 seed 5: not run)"
    ]
    text = (tmp_path / "figure_1.md").read_text()
    assert f"- {diverged}: diverged after 77 iterations" in text
    assert f"- {absent}: MemoryError: too big" in text

    picture = figure.plot(settings, written)
    words = {note.get_text() for axes in picture.axes for note in axes.texts}
    assert words == {
        "1 of 10\ndiverged\n1 of 10\nnot run",
        "1 of 10\ndiverged\n1 of 10\nnot run\n1 of 10\nundefined",
    }


def test_no_run_at_all_still_gives_every_file(figure: Figure, tmp_path: Path) -> None:
    content = write_figure(figure, QUICK, {}, {}, tmp_path)
    assert content["verdicts"] == {"inconclusive": 16}
    assert len(content["failed"]) == 90
    assert (tmp_path / "figure_1.pdf").stat().st_size > 1000


def test_the_stand_in_is_labelled_and_the_real_task_is_not(figure: Figure, tmp_path: Path) -> None:
    titles = {}
    for settings in (QUICK, replace(QUICK, smnist="sMNIST")):
        picture = figure.plot(settings, records(figure, settings))
        titles[settings.smnist] = [axes.get_title() for axes in picture.axes][:4]
        folder = tmp_path / settings.smnist
        write_figure(figure, settings, records(figure, settings), {}, folder)
        text = (folder / "figure_1.md").read_text()
        assert ("stand-in" in text) == (settings.smnist == "sDigits")
        place = "pictures" if settings.smnist == "sMNIST" else "in sMNIST's place"
        assert f"; {place}: {settings.smnist}." in text
        panel = "sMNIST" if settings.smnist == "sMNIST" else "sMNIST stand-in"
        assert f"## {panel}: mean" in text
    assert titles["sMNIST"] == ["2AF", "DMS", "CXT", "sMNIST"]
    assert "stand-in" in titles["sDigits"][3]


def test_every_run_is_a_dot_and_every_bar_a_mean() -> None:
    from matplotlib.figure import Figure as Canvas

    axes = Canvas().subplots()
    values = np.array([[1.0, 2.0], [3.0, np.nan], [5.0, 4.0]])
    sweep_dots(axes, values, ("low", "high"), [[], ["diverged"]])
    dots, bars = axes.collections
    places = np.ma.filled(dots.get_offsets(), np.nan).reshape(3, 2, 2)  # [S, L, x and y]
    assert places[..., 1] == pytest.approx(values, nan_ok=True)
    assert np.abs(places[[0, 2], :, 0] - [0, 1]).max() < 0.3
    assert places[2, 0, 0] + 1 == pytest.approx(places[2, 1, 0])
    assert [segment[0][1] for segment in bars.get_segments()] == [3.0, 3.0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["low", "high"]
