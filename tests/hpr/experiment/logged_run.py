"""`python logged_run.py FAILING ARGUMENT …`: `hpr.run` with short pauses between its lines; seeds of FAILING fail."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from hpr.experiment import run_progress
from hpr.experiment.record import Record
from hpr.experiment.specification import RunSpec
from hpr.run import main


def failing(
    specs: Sequence[RunSpec],
    task: Any,
    *,
    device: Any,
    progress: Any,
    keep: Any,
    fail: Any,
    state: Any,
    stop: Any,
) -> list[Record]:
    """Train as usual, but let some seeds fail."""
    from hpr.training.loop import train_pack

    bad = [spec for spec in specs if str(spec.seed) in sys.argv[1].split(",")]
    for spec in bad:
        fail(spec, ValueError("this network fails"))
    good = [spec for spec in specs if spec not in bad]
    options = {"device": device, "progress": progress, "keep": keep, "state": state, "stop": stop}
    return train_pack(good, task, fail=fail, **options) if good else []


if __name__ == "__main__":
    run_progress.MINUTE = run_progress.LOGGED = 0.2
    sys.exit(main(sys.argv[2:], train=failing if sys.argv[1] else None))
