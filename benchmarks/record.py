"""A record of one benchmark: figures with the machine, versions, command, commit and date they belong to."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from triagekit.files.atomic import write_json
from triagekit.hardware.devices import detect_devices

RESULTS = Path(__file__).resolve().parent / "results"
PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "accelerate",
    "ray",
    "scikit-learn",
    "numpy",
    "pyarrow",
    "datasketch",
)


def real_data() -> Path:
    """Folder with the real ticket files: TRIAGEKIT_REAL_DATA, else ../shared/data beside the checkout."""
    folder = Path(os.environ.get("TRIAGEKIT_REAL_DATA", RESULTS.parent.parent.parent / "shared" / "data"))
    if not folder.is_dir():
        raise SystemExit(f"No real ticket data at {folder}. Set TRIAGEKIT_REAL_DATA to the folder that has it.")
    return folder


def write_record(name: str, figures: dict[str, Any]) -> Path:
    """Write `benchmarks/results/<name>.json` and return its path."""
    path = RESULTS / f"{name}.json"
    # Only the script's name and its options: where folders lie on this machine is nobody's business.
    command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *_without_folders(sys.argv[1:])])
    write_json(
        path,
        {
            "name": name,
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "command": command,
            "commit": _commit(),
            "machine": {
                "processor": _processor(),
                "cores": os.cpu_count(),
                "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
                "gpu": _gpu(),
                "system": platform.platform(terse=True),
            },
            "versions": {"python": platform.python_version(), **_versions()},
            "figures": _without_folders(figures),
        },
    )
    return path


def triage(*words: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run one `triage` command as a user would, echoing it; its output goes to the terminal."""
    shown = [str(word) for word in words]
    print(f"\n$ triage {shlex.join(shown)}", flush=True)
    return subprocess.run([sys.executable, "-m", "triagekit.cli.main", *shown], check=check, text=True)


def _without_folders(value: Any) -> Any:
    """Files of the real data by their names only."""
    if isinstance(value, dict):
        return {key: _without_folders(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_folders(inner) for inner in value]
    return Path(value).name if isinstance(value, str) and value.startswith("/") else value


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False, cwd=RESULTS.parent
    )
    return done.stdout.strip() or "unknown"


def _gpu() -> str | None:
    devices = detect_devices()
    return devices[0].name if devices else None


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
