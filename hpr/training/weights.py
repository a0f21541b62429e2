"""Trained weights in a record in memory, for students of a trained teacher: written as text and read back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from hpr.experiment.kept_weights import arrays_of, texts_of
from hpr.training.pack import Pack, Weights


def encoded(pack: Pack) -> dict[str, dict[str, Any]]:
    """The weights of a pack of one network for its record: little-endian fp32 in base64."""
    return texts_of({name: value[0].cpu().numpy() for name, value in pack.named.items()})


def decoded(weights: Mapping[str, Mapping[str, Any]]) -> Weights:
    """Invert `encoded`: fp32 tensors on the CPU, by name.

    Raises:
        ValueError: one line; these are no weights.
    """
    return {name: torch.from_numpy(array.copy()) for name, array in arrays_of(weights).items()}
