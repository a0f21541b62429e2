"""Pictures of digits, shown to a network row by row or as a whole."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Literal

import numpy as np

from .base import Split, Task, Trials
from .counter import random_words

_DIGITS = Path(__file__).parent / "data" / "digits.npz"

# The images uint8 [n, T, N_in] and labels uint8 [n] of each split.
Pictures = dict[Split, tuple[np.ndarray, np.ndarray]]


class RowDigits(Task):
    """Classification of digits. Each of the T time steps shows a row of N_in pixels; the last one has the loss.

    With pictures from `as_one_row`, T is 1 and the only row holds all pixels.

    The pictures of a split are shown in epochs. Each epoch has its own permutation, keyed by (task, seed, split,
    epoch), and is cut into full batches. The pictures that do not fill a batch are left out of this epoch, so that an
    epoch shows each picture at most once.
    """

    version = "1"
    loss_steps: Literal["all", "last"] = "last"
    N_out = 10

    def __init__(
        self,
        name: str,
        label: str,
        batch_size: int,
        brightest: int,
        pictures: Pictures,
        content: str | None = None,
    ) -> None:
        """Take the pictures.

        Args:
            name: the task's name, which keys its streams.
            label: the name of the task in the title of a picture.
            batch_size: the default number of trials per step.
            brightest: the grey value that becomes an input of 1.
            pictures: the images uint8 [n, T, N_in] and labels uint8 [n] of each split.
            content: a digest of the pictures, if the name does not determine them.
        """
        self.name, self.label, self.batch_size = name, label, batch_size
        self.content = content
        _, self.T, self.N_in = pictures["train"][0].shape
        self._rows = {
            split: images.reshape(-1, self.N_in) for split, (images, _) in pictures.items()
        }
        self._labels = {split: labels.astype(np.int64) for split, (_, labels) in pictures.items()}
        self._steps = np.arange(self.T)[:, None]  # [T, 1]
        self._brightest = np.float32(brightest)
        self._permutation = functools.lru_cache(maxsize=16)(self._new_permutation)

    def size(self, split: Split = "train") -> int:
        """Return the number of pictures in a split."""
        return len(self._labels[split])

    def most(self, split: Split) -> int:
        """A batch holds no picture twice."""
        return self.size(split)

    def _draw(self, seed: int, start: int, count: int, batch: int, split: Split) -> Trials:
        batches = self.size(split) // batch  # per epoch
        if not batches:
            raise ValueError(
                f"batch: expected at most {self.size(split)}, the number of {self.name}'s "
                f"{split} pictures, got {batch}"
            )
        inputs = np.empty((count, self.T, batch, self.N_in), np.float32)
        targets = np.empty((count, self.T, batch), np.int64)
        for k, step in enumerate(range(start, start + count)):
            epoch, place = divmod(step, batches)
            permutation = self._permutation(seed, split, epoch)
            chosen = permutation[place * batch : (place + 1) * batch]
            pixels = self._rows[split].take(chosen * self.T + self._steps, axis=0)
            np.divide(pixels, self._brightest, out=inputs[k])
            targets[k] = self._labels[split][chosen]
        return Trials(inputs, targets)

    def _new_permutation(self, seed: int, split: Split, epoch: int) -> np.ndarray:
        words = random_words(self.size(split), epoch, self.name, self.version, seed, split)
        return np.argsort(words, kind="stable")


def as_one_row(pictures: Pictures) -> Pictures:
    """Turn each picture into one row of all its pixels: images [n, 1, T * N_in]."""
    return {
        split: (images.reshape(len(images), 1, -1), labels)
        for split, (images, labels) in pictures.items()
    }


def small_digits(*, rows: bool = True) -> RowDigits:
    """Return the embedded stand-in for MNIST, pictures of 8 x 8 pixels (data/README.md).

    With `rows`, the task is sDigits, which replaces sMNIST and shows rows; without it, the task is Digits, which
    replaces MNIST and shows whole pictures. There are 1,500 training and 297 evaluation pictures; the latter are spread
    evenly over the file, and so over the writers.
    """
    with np.load(_DIGITS) as stored:
        images, labels = stored["images"], stored["labels"]
    evaluation = np.zeros(len(labels), bool)
    evaluation[np.arange(297) * len(labels) // 297] = True
    pictures: Pictures = {
        "train": (images[~evaluation], labels[~evaluation]),
        "evaluation": (images[evaluation], labels[evaluation]),
    }
    name, original = ("sDigits", "sMNIST") if rows else ("Digits", "MNIST")
    return RowDigits(
        name,
        f"{name} (8x8 digits, a stand-in for {original})",
        batch_size=32,
        brightest=16,
        pictures=pictures if rows else as_one_row(pictures),
    )
