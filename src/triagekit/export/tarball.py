"""`triage export tarball`: a run without its data and checkpoints in one file; the same run gives the same bytes."""

from __future__ import annotations

import gzip
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import yaml

from triagekit.errors import TriageError
from triagekit.evaluation.evaluate import METRICS
from triagekit.export.merged_folder import copy_tokenizer
from triagekit.export.model_card import checked_metrics, packed_card
from triagekit.export.public import public_base, public_card, public_settings, public_summary
from triagekit.export.source import ExportSource, open_run
from triagekit.files.atomic import atomic_path, write_json, write_text
from triagekit.files.fingerprint import sha256_file
from triagekit.files.yaml_file import load_yaml
from triagekit.modeling.adapter_files import PEFT_CONFIG, WEIGHTS_FILES
from triagekit.modeling.adapter_folder import CARD, SCHEMA
from triagekit.modeling.base import load_tokenizer
from triagekit.modeling.segments import SegmentTokenizer
from triagekit.modeling.template import PromptTemplate
from triagekit.scoring.confidence_map import CALIBRATION_FILES

CHECKSUMS = "SHA256SUMS"
_ENDINGS = (".tar.gz", ".tgz")


def export_tarball(run: Path, out: Path, base: str | None = None) -> dict[str, Any]:
    """Pack `run` into the gzipped tar archive `out`; returns its names and sizes, in order, and its SHA-256.

    Inside one folder of the run's name: adapter/, tokenizer/, eval/**/metrics.json, calibration*.json where there are any,
    config.yaml, summary.json, README.md, SHA256SUMS. Sorted names, no times, no owners, no paths of this machine, no
    tickets. The same run and the same zlib give the same bytes. Raises TriageError for another ending than .tar.gz or
    .tgz, or an `out` that is a folder.
    """
    source = open_run(run)
    if not out.name.endswith(_ENDINGS):
        raise TriageError(f"--out {out}: a packed run ends in .tar.gz, e.g. {source.name}.tar.gz")
    if out.is_dir():
        raise TriageError(f"--out {out} is a folder. Give a file name, e.g. {out / source.name}.tar.gz")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as parent:
        folder = Path(parent) / source.name
        folder.mkdir()
        _gather(source, folder, base or str(source.card["base"]))
        names = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        lines = [f"{sha256_file(path)}  {path.relative_to(folder).as_posix()}\n" for path in names]
        write_text(folder / CHECKSUMS, "".join(lines))
        with atomic_path(out) as temporary:
            pack(folder, temporary)
        files = {
            path.relative_to(folder.parent).as_posix(): path.stat().st_size
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
    return {"kind": "tarball", "run": source.name, "file": str(out), "bytes": out.stat().st_size, "files": files} | {
        "sha256": sha256_file(out),
        "adapter_fingerprint": source.card["fingerprint"],
    }


def pack(folder: Path, target: Path) -> None:
    """`folder` with all below it as a gzipped tar archive, streaming; entries depend on names and content only."""
    with (
        target.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as archive,
    ):
        for path in [folder, *sorted(folder.rglob("*"))]:
            entry = tarfile.TarInfo(path.relative_to(folder.parent).as_posix())
            if path.is_dir():
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(entry)
            else:
                entry.size, entry.mode = path.stat().st_size, 0o644
                with path.open("rb") as handle:
                    archive.addfile(entry, handle)


def _gather(source: ExportSource, folder: Path, base: str) -> None:
    tokenizer = load_tokenizer(base)
    segments = SegmentTokenizer(tokenizer, PromptTemplate.from_dict(tokenizer, source.card["prompt"]))
    adapter = folder / "adapter"
    adapter.mkdir()
    for name in (*WEIGHTS_FILES, SCHEMA):
        if (source.run.adapter / name).is_file():
            shutil.copyfile(source.run.adapter / name, adapter / name)
    if (source.run.adapter / PEFT_CONFIG).is_file():
        config = source.run.read(source.run.adapter / PEFT_CONFIG)
        write_json(adapter / PEFT_CONFIG, {**config, "base_model_name_or_path": public_base(str(source.card["base"]))})
    write_json(adapter / CARD, public_card(source.card, segments))
    copy_tokenizer(base, folder / "tokenizer")
    for path in sorted(source.run.folder.glob(CALIBRATION_FILES)):
        shutil.copyfile(path, folder / path.name)
    for path in sorted(source.run.folder.glob(f"eval/**/{METRICS}")):
        # predictions.parquet, which is left out, holds the tickets.
        metrics = checked_metrics(source, path.parent)
        target = folder / path.relative_to(source.run.folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_json(target, {key: value for key, value in metrics.items() if key != "predictions_fingerprint"})
    settings = load_yaml(source.run.config).data
    write_text(folder / "config.yaml", yaml.safe_dump(public_settings(settings), sort_keys=False, allow_unicode=True))
    write_json(folder / "summary.json", public_summary(source.summary))
    write_text(folder / "README.md", packed_card(source))
