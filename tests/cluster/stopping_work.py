"""Work that waits to be stopped at its first start, saves then, and is done at once at its second."""

STOPPING_WORK = """
import pathlib, signal, sys, time
seen = pathlib.Path(sys.argv[1])
starts = len(list(seen.glob("start-*"))) + 1
(seen / f"start-{starts}").touch()
def stop(*_):
    time.sleep(1)
    (seen / f"saved-{starts}").touch()
    sys.exit(140)
signal.signal(signal.SIGUSR2, stop)
if starts == 1:
    (seen / "ready").touch()
    time.sleep(300)
"""
