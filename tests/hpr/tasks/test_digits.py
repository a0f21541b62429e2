"""Digits shown row by row, and the epochs in which they are drawn."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from hpr.tasks import Split, digits, make_task
from hpr.tasks.digits import RowDigits


def numbered(size: int = 50) -> RowDigits:
    """Make a task of pictures with 2 rows of 3 pixels; all pixels of a picture are its number."""
    images = np.broadcast_to(np.arange(size, dtype=np.uint8)[:, None, None], (size, 2, 3))
    labels = (np.arange(size) % 10).astype(np.uint8)
    pictures: dict[Split, tuple[np.ndarray, np.ndarray]] = {
        "train": (images, labels),
        "evaluation": (images[:20] + 100, labels[:20]),
    }
    return RowDigits("numbered", "numbered", batch_size=8, brightest=1, pictures=pictures)


def test_an_epoch_shows_each_picture_at_most_once() -> None:
    drawn = numbered().draw(0, 0, 6, 8).inputs[:, 0, :, 0]
    assert len(np.unique(drawn)) == drawn.size == 48
    next_epoch = numbered().draw(0, 6, 6, 8).inputs[:, 0, :, 0]
    assert len(np.unique(next_epoch)) == 48
    assert not np.array_equal(drawn, next_epoch)


def test_full_batches_cover_every_picture_once() -> None:
    drawn = numbered().draw(0, 5, 5, 10).inputs[:, 0, :, 0]
    np.testing.assert_array_equal(np.sort(drawn.ravel()), np.arange(50))


def test_every_picture_is_shown_in_the_end() -> None:
    drawn = numbered().draw(0, 0, 300, 32).inputs
    assert len(np.unique(drawn)) == 50


def test_evaluation_draws_from_its_own_pictures() -> None:
    drawn = numbered().draw(0, 0, 10, 10, "evaluation").inputs
    np.testing.assert_array_equal(np.unique(drawn), np.arange(100, 120))


def test_labels_follow_their_pictures_at_every_step() -> None:
    drawn = numbered().draw(3, 0, 12, 8)
    np.testing.assert_array_equal(drawn.targets, drawn.inputs[..., 0] % 10)


@pytest.mark.parametrize(("split", "most"), [("train", 50), ("evaluation", 20)])
def test_a_batch_larger_than_the_data_is_refused(split: Split, most: int) -> None:
    task = numbered()
    task.draw(0, 0, 2, most, split)
    message = f"batch: expected at most {most}, the number of numbered's {split} pictures, got"
    with pytest.raises(ValueError, match=message):
        task.draw(0, 0, 1, most + 1, split)


def test_rows_are_time_steps() -> None:
    images = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    labels = np.array([4, 5], np.uint8)
    task = RowDigits(
        "rows", "rows", batch_size=2, brightest=4, pictures={"train": (images, labels)}
    )
    drawn = task.draw(0, 0, 1, 2)
    for trial in range(2):
        image = images[drawn.targets[0, 0, trial] - 4]
        np.testing.assert_array_equal(drawn.inputs[0, :, trial], image / 4)


def test_the_stand_in_is_the_published_one() -> None:
    content = Path(digits.__file__).with_name("data").joinpath("digits.npz").read_bytes()
    digest = "b2dab7b501728c22e9119ad76740b2e17c77a231e42d1e592380d90886f1a05e"
    assert hashlib.sha256(content).hexdigest() == digest
    task = make_task("sDigits")
    assert isinstance(task, RowDigits)
    assert task.content is None


def test_the_stand_in_is_labelled_as_one() -> None:
    task = make_task("sDigits")
    assert (task.name, task.version, task.loss_steps) == ("sDigits", "1", "last")
    assert "stand-in for sMNIST" in task.label
    assert (task.T, task.N_in, task.N_out, task.batch_size) == (8, 8, 10, 32)


def test_the_stand_ins_splits_share_no_picture_and_cover_all() -> None:
    task = make_task("sDigits")
    splits = [task.draw(0, 0, 1, 1500), task.draw(0, 0, 1, 297, "evaluation")]
    assert isinstance(task, RowDigits)
    assert (task.size(), task.size("evaluation")) == (1500, 297)
    seen = [{trial.tobytes() for trial in drawn.inputs[0].swapaxes(0, 1)} for drawn in splits]
    assert seen[0].isdisjoint(seen[1])
    for drawn in splits:
        assert (drawn.inputs.min(), drawn.inputs.max()) == (0, 1)
        share = np.bincount(drawn.targets[0, 0], minlength=10) / drawn.targets.shape[2]
        assert np.all(np.abs(share - 0.1) < 0.03)


def test_the_stand_in_is_learnable() -> None:
    task = make_task("sDigits")
    train, evaluation = task.draw(0, 0, 1, 1500), task.draw(0, 0, 1, 297, "evaluation")
    known, asked = (drawn.inputs[0].swapaxes(0, 1).reshape(-1, 64) for drawn in (train, evaluation))
    nearest = ((asked[:, None] - known) ** 2).sum(-1).argmin(1)
    assert np.mean(train.targets[0, 0][nearest] == evaluation.targets[0, 0]) > 0.95
