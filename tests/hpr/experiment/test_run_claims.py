"""Claims: one owner per run among processes, machines and threads, whatever dies, and whatever the clocks say."""

from __future__ import annotations

import dataclasses
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hpr.experiment.run_claims import Claims
from hpr.system.owner import Owner

KEY = "0123456789abcdef"
DYING = """
import os, signal, sys
from pathlib import Path
from hpr.experiment.run_claims import Claims
assert Claims(Path(sys.argv[1])).take(sys.argv[2])
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(params=["links", "no links"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if request.param == "no links":

        def link(*_: object) -> None:
            raise OSError(errno.EPERM, "no hard links")

        monkeypatch.setattr(os, "link", link)
    return tmp_path / "claims"


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """After a call, owners are of another machine with this host's name, where no process id means anything here."""
    of = Owner.of

    def leave() -> None:
        monkeypatch.setattr(
            Owner, "of", lambda pids: dataclasses.replace(of(pids), machine="another boot")
        )

    return leave


def left_by_the_dead(folder: Path, key: str = KEY) -> None:
    done = subprocess.run([sys.executable, "-c", DYING, str(folder), key])
    assert done.returncode == -signal.SIGKILL


def test_a_run_has_one_owner_until_it_is_given_back(folder: Path) -> None:
    one, other = Claims(folder), Claims(folder)
    assert one.take(KEY)
    assert one.take(KEY)
    assert not other.take(KEY)
    assert other.take("another")
    assert other.holders() == {KEY, "another"}
    assert other.holder(KEY) == f"process {os.getpid()} on {os.uname().nodename}"
    one.give_back(KEY)
    assert other.holder(KEY) is None
    assert other.take(KEY)
    # What is another's is not given back.
    one.give_back(KEY)
    assert not one.take(KEY)
    one.close()
    assert other.holder(KEY) is not None
    other.close()
    assert not folder.exists()


def test_the_claim_of_a_dead_process_of_this_machine_is_taken_at_once(folder: Path) -> None:
    left_by_the_dead(folder)
    left_by_the_dead(folder, "of no interest")
    claims = Claims(folder)
    assert claims.holders() == {KEY, "of no interest"}
    assert claims.holder(KEY) is None
    assert claims.take(KEY)
    other = Claims(folder)
    assert not other.take(KEY)
    other.close()
    claims.close()
    # Nothing of the dead is left.
    assert not folder.exists()


def test_a_worker_that_outlives_its_parent_keeps_the_claim(tmp_path: Path) -> None:
    worker = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        code = DYING.replace("sys.argv[2])", "sys.argv[2], (int(sys.argv[3]),))")
        subprocess.run([sys.executable, "-c", code, str(tmp_path), KEY, str(worker.pid)])
        assert not Claims(tmp_path).take(KEY)
    finally:
        worker.kill()
        # It is a zombie, which counts as dead, until it is waited for.
        time.sleep(0.1)
        taken = Claims(tmp_path).take(KEY)
        worker.communicate()
    assert taken


@pytest.mark.parametrize("day", [-86_400, 86_400])
def test_a_claim_of_another_machine_lives_by_its_renewals_and_not_by_clocks(
    folder: Path, elsewhere: Callable[[], None], monkeypatch: pytest.MonkeyPatch, day: int
) -> None:
    observer = Claims(folder, expiry=0.4)
    assert observer.take("mine")
    elsewhere()
    other = Claims(folder, beat=0.05)
    assert other.take(KEY)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + day)
    for path in folder.iterdir():
        os.utime(path, (now() + day, now() + day))
    until = time.monotonic() + 0.8
    while time.monotonic() < until:
        assert not observer.take(KEY)
        time.sleep(0.05)
    # It is cut off: no renewal any more.
    other._closed.set()
    started = time.monotonic()
    while not observer.take(KEY):
        time.sleep(0.02)
    assert 0.3 < time.monotonic() - started < 5
    # When it comes back it does no harm.
    other.give_back(KEY)
    assert observer.take(KEY)
    assert not Claims(folder).take(KEY)


def contend(claims: Claims, barrier: threading.Barrier, won: list[Claims]) -> None:
    barrier.wait()
    for _ in range(5):
        if claims.take(KEY):
            won.append(claims)
            return


def test_one_of_many_takes_a_dead_claim_over(folder: Path) -> None:
    left_by_the_dead(folder)
    dead = (folder / f"{KEY}.json").read_bytes()
    for _ in range(30):
        (folder / f"{KEY}.json").write_bytes(dead)
        contenders = [Claims(folder) for _ in range(6)]
        barrier = threading.Barrier(len(contenders))
        won: list[Claims] = []
        threads = [
            threading.Thread(target=contend, args=(claims, barrier, won)) for claims in contenders
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        for claims in contenders:
            claims._closed.set()
        (folder / f"{KEY}.json").unlink()


def test_a_process_that_dies_in_taking_over_does_no_harm(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_by_the_dead(folder)
    dying = DYING.replace("assert", "os.replace = lambda *_: os.kill(os.getpid(), 9)\nassert")
    for _ in range(2):
        subprocess.run([sys.executable, "-c", dying, str(folder), KEY])
    assert any(path.name.startswith(f"{KEY}.json.") for path in folder.iterdir())
    claims = Claims(folder)
    assert claims.take(KEY)
    claims.close()
    assert not folder.exists()


@pytest.mark.parametrize("content", [b"", b"{}\n", b"[" * 3000, b'{"token": "../../x"}\n'])
def test_a_claim_that_nobody_wrote_expires(tmp_path: Path, content: bytes) -> None:
    (tmp_path / f"{KEY}.json").write_bytes(content)
    claims = Claims(tmp_path, expiry=0.1)
    assert not claims.take(KEY)
    assert claims.holder(KEY) == "a process"
    time.sleep(0.15)
    assert claims.take(KEY)


def test_a_claim_that_leads_elsewhere_is_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    folder = tmp_path / "claims"
    folder.mkdir()
    (folder / f"{KEY}.json").symlink_to(precious)
    claims = Claims(folder, beat=0.01, expiry=0.1)
    assert not claims.take(KEY)
    time.sleep(0.15)
    assert claims.take(KEY)
    time.sleep(0.05)
    claims.close()
    assert precious.read_text() == "precious"


def test_a_folder_that_is_removed_is_made_again(tmp_path: Path) -> None:
    claims = Claims(tmp_path / "claims")
    assert claims.take(KEY)
    for path in (tmp_path / "claims").iterdir():
        path.unlink()
    (tmp_path / "claims").rmdir()
    assert claims.take("another")
    claims.give_back(KEY)
    claims.close()
