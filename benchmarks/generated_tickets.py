"""Generated tickets, prepared, for benchmarks that need some; and commands run in this process."""

from __future__ import annotations

from pathlib import Path

from triagekit.cli.main import main as triage_main


def triage(*words: object) -> None:
    """One command in this process, which has paid for its imports once."""
    shown = [str(word) for word in words]
    print("$ triage", *shown, flush=True)
    if status := triage_main(shown):
        raise SystemExit(status)


def generated(folder: Path, rows: int) -> Path:
    """Prepared tickets; what stands there already is kept."""
    data = folder / "data"
    if not (data / "manifest.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        triage("data", "generate", "--rows", rows, "--seed", 7, "--out", folder / "raw.jsonl")
        triage("data", "prepare", "it_tickets", "--source", folder / "raw.jsonl", "--out", data)
    return data


def prepared_as(data: Path, name: str, schema: str) -> Path:
    """The same tickets as `data` under another `schema` (YAML), beside it as `name`."""
    folder = data.with_name(name)
    if not (folder / "manifest.json").is_file():
        path = data.with_name(f"{name}.yaml")
        path.write_text(schema, encoding="utf-8")
        triage(
            "data", "prepare", "it_tickets", "--schema", path, "--source", data.with_name("raw.jsonl"), "--out", folder
        )
    return folder
