"""These tests check the embedded connectome and what shuffling keeps of it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from hpr.connectivity import EM, Dense, connectome, effective_rank
from hpr.connectivity.connectome import CELEGANS, open_connectome


def test_the_embedded_connectome_is_the_published_one() -> None:
    worm = open_connectome(CELEGANS)
    assert len(worm.cells) == EM().N == 297
    assert np.count_nonzero(worm.weights) == 3638
    unit = {cell: n for n, cell in enumerate(worm.cells)}
    # In the published table ADAL has 2 synapses on ADLL and 6 on itself, and DD01 is GABAergic.
    assert worm.weights[unit["ADLL"], unit["ADAL"]] == 2
    assert worm.weights[unit["ADAL"], unit["ADAL"]] == 6
    assert worm.weights[:, unit["DD01"]].max() <= 0 > worm.weights[:, unit["DD01"]].min()
    assert (worm.weights < 0).sum() == 244


def test_the_embedded_tables_are_those_of_every_stored_run() -> None:
    folder = Path(connectome.__file__).with_name("data") / CELEGANS
    digests = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()
    }
    assert digests == {
        "cells.csv.gz": "d9340260577ff7062b45e63cb5de720b82227ab1133f1f23e29658568e137ad1",
        "synapses.csv.gz": "ab1c72f2dcfa8e66b2e09a1efbc692b580c153c54bc176480af2e2a6c344ffa7",
    }
    assert open_connectome(CELEGANS).digest == "4aef99ff5ce7"


def test_each_presynaptic_cell_has_one_sign() -> None:
    W = EM().draw(297, 0)
    assert not np.any((W > 0).any(axis=0) & (W < 0).any(axis=0))


def test_the_structure_is_the_data_at_every_seed() -> None:
    ratio = EM().draw(297, 0) / np.linalg.norm(EM().draw(297, 0))
    again = EM().draw(297, 1) / np.linalg.norm(EM().draw(297, 1))
    np.testing.assert_allclose(ratio, again, rtol=1e-12)
    assert np.linalg.norm(EM().draw(297, 0)) != np.linalg.norm(EM().draw(297, 1))


def test_shuffling_keeps_places_and_weights_and_no_more() -> None:
    W, shuffled = EM().draw(297, 0), EM(shuffled=True).draw(297, 0)
    np.testing.assert_array_equal(shuffled != 0, W != 0)
    np.testing.assert_allclose(np.sort(shuffled, axis=None), np.sort(W, axis=None), rtol=1e-12)
    moved = (shuffled != W)[W != 0].mean()
    assert moved > 0.5
    assert not np.array_equal(EM(shuffled=True).draw(297, 1) > 0, shuffled > 0)


@pytest.mark.parametrize("singular", [False, True])
def test_effective_rank_is_below_the_nulls(singular: bool) -> None:
    null = effective_rank(Dense().draw(297, 0), singular=singular)
    assert effective_rank(EM().draw(297, 0), singular=singular) < 0.5 * null


def test_what_is_handed_out_cannot_spoil_the_next() -> None:
    with pytest.raises(ValueError, match="read-only"):
        open_connectome(CELEGANS).weights[0, 0] = 1
    EM().draw(297, 0)[:] = 0
    assert EM().draw(297, 0).any()
