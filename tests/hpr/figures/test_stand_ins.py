"""The table of stand-ins agrees with the tasks and structures that it names, and with the settings."""

from __future__ import annotations

from hpr.connectivity import EM
from hpr.figures import Settings
from hpr.figures.stand_ins import MNIST_TASKS, STAND_INS
from hpr.tasks import make_task
from hpr.tasks.versions import PICTURE_TASKS


def test_the_table_names_what_exists() -> None:
    standing_in = [STAND_INS[task].name for task in MNIST_TASKS]
    assert sorted([*MNIST_TASKS, *standing_in]) == sorted(PICTURE_TASKS)
    for task in MNIST_TASKS:
        assert make_task(STAND_INS[task].name).name == STAND_INS[task].name
    stand_in = STAND_INS["EM"]
    assert EM(connectome=stand_in.name).label == stand_in.named("EM") == "EM stand-in"


def test_the_settings_choose_stand_ins() -> None:
    real = Settings(smnist="sMNIST", connectome="0123")
    for of in STAND_INS:
        assert Settings().stand_in(of) is STAND_INS[of]
        assert real.stand_in(of) is None
    assert Settings().stand_in("2AF") is None


def test_names_and_titles_are_labelled() -> None:
    """A panel's title has a second line where the label does not say what stands in."""
    assert STAND_INS["sMNIST"].title("sMNIST") == "sMNIST stand-in:\n8 x 8 digits (sDigits)"
    assert STAND_INS["MNIST"].title("B MNIST") == "B digits (MNIST stand-in)"
    assert STAND_INS["EM"].title("B EM") == "B EM stand-in:\nC. elegans"
