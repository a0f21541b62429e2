"""Trained weights in a record, for students of a trained teacher: written as text and read back."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from hpr.training.pack import Pack, Weights


def encoded(pack: Pack) -> dict[str, dict[str, Any]]:
    """The weights of a pack of one network for its record: little-endian fp32 in base64."""
    arrays = {name: value[0].cpu().numpy().astype("<f4") for name, value in pack.named.items()}
    return {
        name: {"shape": list(a.shape), "float32": base64.b64encode(a.tobytes()).decode()}
        for name, a in arrays.items()
    }


def decoded(weights: Mapping[str, Mapping[str, Any]]) -> Weights:
    """Invert `encoded`: fp32 tensors on the CPU, by name."""
    return {
        name: torch.from_numpy(
            np.frombuffer(base64.b64decode(value["float32"]), "<f4").reshape(value["shape"]).copy()
        )
        for name, value in weights.items()
    }
