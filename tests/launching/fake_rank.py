"""A rank that trains nothing: what the launcher does with ranks, without the seconds that torch takes to import."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from triagekit.errors import TriageError
from triagekit.launching.rank import run_in_rank
from triagekit.launching.reports import RankReport
from triagekit.signals import STOP_SIGNALS
from triagekit.training.stopping import TrainingInterrupted

RANK = int(os.environ["RANK"])
heard: list[int] = []


def work(mode: str, folder: Path) -> RankReport:
    deaf = [signal.getsignal(number) is signal.SIG_IGN for number in STOP_SIGNALS]
    seen = {"pid": os.getpid(), "words": sys.argv[3:], "deaf": deaf, "threads": os.environ["OMP_NUM_THREADS"]}
    seen["world"] = os.environ["WORLD_SIZE"]
    for number in STOP_SIGNALS:
        signal.signal(number, lambda got, frame: heard.append(got))
    (folder / f"{RANK}.part").write_text(json.dumps(seen), encoding="utf-8")
    (folder / f"{RANK}.part").rename(folder / f"{RANK}.json")
    if mode == "refuse":
        raise TriageError("The data are not there.")
    if mode == "crash":
        raise ValueError("odd")
    if mode == "killed" and RANK == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    while mode != "finish":
        time.sleep(0.05)
        if heard:
            time.sleep(0.5)
            (folder / f"{RANK}.saved").touch()
            raise TrainingInterrupted(heard[0], 3, 9)
    return RankReport(RANK, "finished")


if __name__ == "__main__":
    sys.exit(run_in_rank(lambda: work(sys.argv[1], Path(sys.argv[2]))))
