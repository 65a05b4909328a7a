"""Where the adapter of a run lies; without torch, so that a login node can ask."""

from __future__ import annotations

from pathlib import Path

from triagekit.errors import TriageError


def adapter_folder(run_or_adapter: Path | str) -> Path:
    """The adapter folder of `runs/<name>`, or the folder itself if it is one. Raises TriageError saying what is there."""
    given = Path(run_or_adapter).expanduser()
    for folder in (given, given / "adapter"):
        if (folder / "triagekit.json").is_file():
            return folder
    if not given.is_dir():
        raise TriageError(f"There is no run at {given}.{_runs_beside(given)}")
    if (given / "config.yaml").is_file():
        raise TriageError(
            f"The run {given} has no adapter yet: its training is not finished. Run `triage train` again."
        )
    raise TriageError(f"{given} is neither a run (no adapter/ in it) nor an adapter folder (no triagekit.json in it).")


def _runs_beside(given: Path) -> str:
    from triagekit.errors import did_you_mean

    folder = given.parent if given.parent != Path() or not Path("runs").is_dir() else Path("runs")
    runs = [path.name for path in folder.iterdir() if (path / "adapter").is_dir()] if folder.is_dir() else []
    hint = did_you_mean(given.name, sorted(runs))
    return f" In {folder}: {hint}" if hint else " Train one first: triage train configs/train/lora.yaml"
