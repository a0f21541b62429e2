"""Random numbers as a pure function of a key and a counter.

Only the raw words of NumPy's Philox are used. NumPy keeps them the same in every version, whereas
the distributions of its Generator may change.
"""

from __future__ import annotations

import functools
import hashlib
from statistics import NormalDist

import numpy as np

_LEVELS = 2**16


def random_words(count: int, index: int, *key: object) -> np.ndarray:
    """Return the first `count` words of stream number `index` among the streams of `key`.

    The Philox key is a hash of `repr(key)`, which is the same in every process. `index` is the
    second word of the counter, so that two streams of one key never overlap.

    Returns:
        uint64 [count].
    """
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    philox = np.random.Philox(key=np.frombuffer(digest, "<u8"), counter=[0, index, 0, 0])
    return philox.random_raw(count)


def uniform(words: np.ndarray) -> np.ndarray:
    """Turn each word into a float64 number, uniform in [0, 1)."""
    return (words >> np.uint64(11)) * 2.0**-53


def standard_normal(words: np.ndarray) -> np.ndarray:
    """Turn words into float32 standard normal numbers, two per word.

    Each number is the sum of two of the 65,536 equally probable levels of a normal distribution of
    variance 1/2. Compared with a true normal distribution, its distribution function differs by
    8e-6 at most, its kurtosis is 2.9996, and its largest value is 6.1 standard deviations. This is
    three times as fast as NumPy's generator and gives the same numbers on every processor.
    """
    levels = _half_normal_levels()
    pairs = words.astype("<u8", copy=False).view("<u2").reshape(2, -1)
    # Every 16-bit index is in range, and with "clip" take() skips its bounds check.
    numbers = levels.take(pairs[0], mode="clip")
    numbers += levels.take(pairs[1], mode="clip")
    return numbers


@functools.cache
def _half_normal_levels() -> np.ndarray:
    """Return the levels, float32 [65536]: normal quantiles at (i + 1/2) / 65536, scaled to a variance of 1/2."""
    quantile = NormalDist().inv_cdf
    lower = np.array([quantile((i + 0.5) / _LEVELS) for i in range(_LEVELS // 2)])
    levels = np.concatenate([lower, -lower[::-1]])
    return (levels / np.sqrt(2 * np.mean(levels**2))).astype(np.float32)
