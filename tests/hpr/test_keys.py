"""The keys of the paper's runs must stay, since they are the names of everybody's finished records."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import get_args

from hpr.experiment.specification import VARIANTS
from hpr.figures import Settings, discover
from hpr.figures.settings import SMNIST, Profile

# The file has, for each setting and figure, the number of runs and the SHA-256 of their sorted keys.
KEPT = Path(__file__).with_name("keys.json")


def digests() -> dict[str, dict[str, str]]:
    figures = discover()
    found = {}
    for profile, variant, smnist in product(get_args(Profile), VARIANTS, get_args(SMNIST)):
        settings = Settings(profile=profile, variant=variant, smnist=smnist)
        keys = {
            name: sorted(spec.key for spec in figure.runs(settings))
            for name, figure in figures.items()
        }
        found[f"{profile}, {variant}, {smnist}"] = {
            name: f"{len(of)} {hashlib.sha256(' '.join(of).encode()).hexdigest()}"
            for name, of in keys.items()
            if of
        }
    return found


def test_the_keys_of_all_runs_stay() -> None:
    """A changed key orphans everybody's finished runs: if this fails, the specification changed."""
    assert digests() == json.loads(KEPT.read_text())


def test_other_pictures_are_other_runs_of_those_tasks_alone() -> None:
    """Teachers are other runs too: they and their students see the same pictures."""
    usual = Settings(profile="paper", smnist="sMNIST")
    foreign = replace(usual, smnist_content="0123456789abcdef")
    changed = []
    for figure in discover().values():
        for one, other in zip(figure.runs(usual), figure.runs(foreign), strict=True):
            pictured = one.task in ("sMNIST", "MNIST")
            assert (one != other) == pictured
            assert other.content == ("0123456789abcdef" if pictured else None)
            changed.append(pictured)
    assert sum(changed) > 100
