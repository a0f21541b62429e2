"""The runs of a panel: what the settings set, what the figure sets, and which of them wins."""

from __future__ import annotations

from hpr.connectivity import Dense, LowRank
from hpr.figures import PanelBuilder, Settings


def test_quick_fields_are_of_the_quick_profile_and_the_settings_iterations_win() -> None:
    fields, quick = {"batch": 8, "iterations": 50}, {"N": 20, "iterations": 30}
    found = {}
    for profile in ("quick", "paper"):
        for iterations in (None, 7):
            settings = Settings(profile=profile, iterations=iterations)  # type: ignore[arg-type]
            builder = PanelBuilder(settings, "2AF", fields, quick)
            run = builder.run(3, connectivity=Dense())
            assert run.N == builder.N
            found[profile, iterations] = (run.seed, run.batch, run.N, run.iterations)
    assert found == {
        ("quick", None): (3, 8, 20, 30),
        ("quick", 7): (3, 8, 20, 7),
        ("paper", None): (3, 8, 300, 50),
        ("paper", 7): (3, 8, 300, 7),
    }


def test_variant_version_and_content_follow_from_the_settings() -> None:
    settings = Settings(
        variant="released", task_version="2.3", smnist="sMNIST", smnist_content="0" * 16
    )
    of = {
        task: PanelBuilder(settings, task).run(0, connectivity=Dense())
        for task in ("CXT", "sMNIST", "pattern generation")
    }
    assert {name: run.task_version for name, run in of.items()} == {
        "CXT": "2.3",
        "sMNIST": "1",
        "pattern generation": "1",
    }
    assert {name: run.content for name, run in of.items() if run.content} == {"sMNIST": "0" * 16}
    assert {(run.leak, run.ntk_parameters, run.connectivity.gain) for run in of.values()} == {
        ("euler", ("recurrent",), 1.25)
    }


def test_a_panel_has_each_level_with_all_seeds() -> None:
    levels = {
        "low": {"connectivity": LowRank(rank=1)},
        "aligned": {"connectivity": Dense(gain=0.1), "aligned": "directions"},
    }
    panel = PanelBuilder(Settings(seeds=2), "student-teacher(d=5)").panel("a", "A", "axis", levels)
    assert (panel.name, panel.title, panel.axis, panel.levels) == (
        "a",
        "A",
        "axis",
        ("low", "aligned"),
    )
    found = [[(run.seed, run.aligned, run.connectivity) for run in level] for level in panel.runs]
    assert found == [
        [(seed, None, LowRank(gain=1.5, rank=1)) for seed in (0, 1)],
        [(seed, "directions", Dense(gain=0.1)) for seed in (0, 1)],
    ]
