"""Work with the habits of a training run and none of its weight: counts steps, checkpoints them, stops when asked to.

    python counting_work.py RUN STEPS SECONDS_A_STEP [EXIT_CODE]

Goes on from the newest checkpoint, twenty times as fast. With EXIT_CODE it ends with that code after its first step.
A file `stop` in the run folder acts like SIGUSR2.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from triagekit.cluster.attempts.record import newest_step
from triagekit.training.checkpoints import rotate, write_checkpoint
from triagekit.training.run_folder import RunFolder


def main(folder: str, steps: str, pause: str, exit_code: str = "") -> int:
    """Count; the exit code of a training run."""
    run = RunFolder(folder)
    asked: list[int] = []
    for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: asked.append(number))
    first = newest_step(folder)
    for step in range(first, int(steps)):
        # The first attempt is to be caught at work; the others only have to finish.
        time.sleep(float(pause) if first == 0 else float(pause) / 20)
        with run.metrics.open("a") as lines:
            lines.write(json.dumps({"step": step + 1, "attempt": os.environ.get("TRIAGEKIT_ATTEMPT")}) + "\n")
        write_checkpoint(run.checkpoints, step + 1, lambda folder: None)
        rotate(run.checkpoints, keep=2, best_step=None)
        if exit_code:
            return int(exit_code)
        if (run.folder / "stop").exists():
            (run.folder / "stop").unlink()
            asked.append(signal.SIGUSR2)
        if asked:
            print(f"stopped by {signal.Signals(asked[0]).name} after step {step + 1}", flush=True)
            return 128 + asked[0]
    run.write_summary({"steps": int(steps)})
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
