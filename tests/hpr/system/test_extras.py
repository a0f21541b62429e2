"""The command that an error recommends works wherever the package was installed from."""

from __future__ import annotations

import importlib.metadata
import shlex

import pytest
from packaging.requirements import Requirement

from hpr.system import extras


@pytest.mark.parametrize(
    ("extra", "some"),
    [("repro", {"neurogym", "scipy", "matplotlib"}), ("em", {"caveclient", "neurogym"})],
)
def test_the_command_names_packages_of_the_index(extra: str, some: set[str]) -> None:
    pip, install, *requirements = shlex.split(extras.install(extra))
    assert (pip, install) == ("pip", "install")
    named = [Requirement(text).name for text in requirements]
    assert some <= set(named)
    assert len(named) == len(set(named))
    assert not {"torch", "pytest", extras.DISTRIBUTION} & set(named)


def test_a_checkout_without_metadata_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(extras, "requires", missing)
    assert extras.install("em") == "pip install '.[em]' in the checkout"
