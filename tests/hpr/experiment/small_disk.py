"""`python small_disk.py PLAN`: a command on a tmpfs that fills at a write, and the same again when there is room.

PLAN is JSON, see `main`. The program needs the right to mount, which `unshare -Urm` gives. It imports everything once,
and forks a process for each command.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from disk_harm import PAGE, Harm, remount

from hpr.training import watch
from hpr.training.loop import train_pack

ROOM = "size=64m,nr_inodes=10000"
# The variable by which worker processes know what to do, too.
TOLD = "SMALL_DISK"


def often(
    specs: Sequence[Any],
    task: Any,
    *,
    device: Any,
    progress: Any,
    checkpoints: Any,
    keep: Any,
    fail: Any,
    stop: Any,
) -> list[Any]:
    """Train as usual, but write checkpoints and ask `stop` after each iteration."""
    checkpoints.period, watch.SHARE, watch.SECONDS = 0.0, math.inf, 0.0
    options = {"checkpoints": checkpoints, "keep": keep, "fail": fail, "stop": stop}
    return train_pack(specs, task, device=device, progress=progress, **options)


def run(plan: dict[str, Any], said: Path, harm: Harm | None) -> dict[str, Any]:
    """Run the plan's command in a process of its own; its status, and what it wrote to stderr."""
    child = os.fork()
    if not child:
        status: Any = 99
        try:
            for number, name in ((1, "out"), (2, "err")):
                os.dup2(
                    os.open(said.with_suffix(f".{name}"), os.O_WRONLY | os.O_CREAT, 0o666), number
                )
            if plan.get("fresh"):
                os.execv(sys.executable, [sys.executable, "-m", plan["program"], *plan["argv"]])
            if harm is not None:
                os.environ[TOLD] = json.dumps([harm.below, harm.at, harm.how])
                harm.install()
            command = importlib.import_module(plan["program"]).main
            # Worker processes find the function under this name.
            status = command(plan["argv"], train=importlib.import_module("small_disk").often)
        except SystemExit as error:
            status = error.code
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    errors = said.with_suffix(".err").read_text(encoding="utf-8")
    return {"status": status, "lines": errors.splitlines()}


def case(plan: dict[str, Any], how: str, number: int) -> bool:
    """One command that is disturbed at `number`, and the same again; False if it was not disturbed."""
    below, kept = plan["below"], Path(plan["to"], f"{how}-{number}")
    room = f"size={number * PAGE}" if how == "size" else ROOM
    subprocess.run(["mount", "-t", "tmpfs", "-o", room, "none", below], check=True)
    if plan.get("given"):
        shutil.copytree(plan["given"], Path(below, "out"))
    kept.mkdir(parents=True)
    harm = None if how == "size" else Harm(below, number, how)
    stopped = run(plan, kept / "stopped", harm)
    disturbed = stopped["status"] != 0 if harm is None else harm.reached()
    shutil.copytree(below, kept / "stopped", ignore=shutil.ignore_patterns("filler"))
    remount(below, f"rw,{ROOM}")
    Path(below, "filler").unlink(missing_ok=True)
    Path(f"{below}.count").unlink(missing_ok=True)
    told = {"stopped": stopped, "finished": run(plan, kept / "finished", None)}
    shutil.copytree(below, kept / "finished")
    (kept / "told.json").write_text(json.dumps(told), encoding="utf-8")
    subprocess.run(["umount", below], check=True)
    return disturbed


def main() -> None:
    """Do the cases of a plan.

    program, argv: a module with `main`, and its arguments; fresh: whether it is run by `python -m`. below: where the
    tmpfs is mounted, which holds the results as `out`. given: a folder that the results begin with. harms: pairs of
    "size" or one of `HARMS`, and the first number, the end and the step of pages or writes; a harm ends with the first
    number that disturbs nothing. to: where all is kept.
    """
    plan = json.loads(sys.argv[1])
    for name in (
        plan["program"],
        "hpr.figures.draw",
        "hpr.experiment.execution",
        "tqdm",
        "scipy.linalg",
    ):
        importlib.import_module(name)
    for how, numbers in plan["harms"]:
        for number in range(*numbers):
            if not case(plan, how, number):
                break


if __name__ == "__main__":
    importlib.import_module("small_disk").main()
elif TOLD in os.environ and __name__ == "__mp_main__":
    Harm(*json.loads(os.environ[TOLD])).install()
