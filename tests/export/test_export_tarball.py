"""Packed runs: the same bytes every time, nothing private inside, and ready to score with when unpacked."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tarfile

import pytest
from export_helpers import holds_nothing_private

from triagekit.errors import TriageError
from triagekit.evaluation.evaluate import evaluate_run
from triagekit.export.tarball import export_tarball
from triagekit.scoring.predictor import Predictor
from triagekit.training.run_folder import RunFolder


@pytest.fixture(scope="module")
def packed(lora_run, tmp_path_factory):
    place = tmp_path_factory.mktemp("packed")
    run = place / "lora-seed0"
    shutil.copytree(lora_run, run)
    evaluate_run(run, limit=4, free_sample=0)
    evaluate_run(run, limit=4, free_sample=0, precision="int8", fields=["labels"])
    for name in ("calibration.json", "calibration.int8+labels.json"):
        (run / name).write_text("{}\n", encoding="utf-8")
    record = export_tarball(run, place / "out" / "run.tar.gz")
    unpacked = place / "elsewhere"
    unpacked.mkdir()
    subprocess.run(["tar", "-xzf", str(place / "out" / "run.tar.gz"), "-C", str(unpacked)], check=True)
    return run, record, unpacked / "lora-seed0"


def test_the_same_run_gives_the_same_bytes(packed, tmp_path):
    run, record, _ = packed
    copy = tmp_path / "moved" / "lora-seed0"
    shutil.copytree(run, copy)
    for path in copy.rglob("*"):
        path.chmod(0o700)
        os.utime(path, (1e9, 1e9))
    again = export_tarball(copy, tmp_path / "again.tgz")
    assert again["sha256"] == record["sha256"]
    with tarfile.open(tmp_path / "again.tgz") as archive:
        entries = archive.getmembers()
    assert all((entry.mtime, entry.uid, entry.gid, entry.uname) == (0, 0, 0, "") for entry in entries)
    assert all(not entry.name.startswith("/") and ".." not in entry.name for entry in entries)
    assert [entry.name for entry in entries] == sorted(entry.name for entry in entries)


def test_nothing_but_what_is_needed_and_nothing_private(packed, tiny_model_folder):
    run, record, unpacked = packed
    names = {name.removeprefix("lora-seed0/") for name in record["files"]}
    assert names >= {
        "adapter/adapter_model.safetensors",
        "adapter/schema.yaml",
        "tokenizer/tokenizer.json",
        "README.md",
    }
    assert names >= {"eval/test/metrics.json", "summary.json", "config.yaml", "SHA256SUMS"}
    assert names >= {"eval/test/int8+labels/metrics.json", "calibration.json", "calibration.int8+labels.json"}
    assert not any("predictions" in name or "checkpoints" in name for name in names)
    assert holds_nothing_private(unpacked, run.parent, run.parent.parent, tiny_model_folder.parent) == []


def test_the_checksums_are_of_the_files(packed):
    unpacked = packed[2]
    lines = [line.split("  ") for line in (unpacked / "SHA256SUMS").read_text().splitlines()]
    assert len(lines) == len([path for path in unpacked.rglob("*") if path.is_file()]) - 1
    for digest, name in lines:
        assert hashlib.sha256((unpacked / name).read_bytes()).hexdigest() == digest


def test_unpacked_it_scores_as_the_run_does(packed, tiny_model_folder):
    run, _, unpacked = packed
    texts = ["VPN is down", "Printer jam"]
    theirs = Predictor.from_run(run, device="cpu").predict(texts)
    ours = Predictor.from_run(unpacked, base=str(tiny_model_folder), device="cpu").predict(texts)
    assert ours == theirs
    # It is a run like any other, and its base is a name that says what to look for.
    described = RunFolder.open(unpacked).describe()
    assert (described.status, described.base) == ("finished", tiny_model_folder.name)
    assert json.loads((unpacked / "summary.json").read_text())["base"] == tiny_model_folder.name


def test_measurements_of_another_adapter_are_not_packed(packed, tmp_path):
    for place in ("eval/test", "eval/test/int8+labels"):
        copy = tmp_path / place.replace("/", "-") / "lora-seed0"
        shutil.copytree(packed[0], copy)
        path = copy / place / "metrics.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "adapter_fingerprint": "0" * 16}))
        with pytest.raises(
            TriageError, match=f"{place}/metrics.json was measured on another adapter".replace("+", "[+]")
        ):
            export_tarball(copy, tmp_path / "x.tgz")


def test_other_endings_and_folders_are_refused(lora_run, tmp_path):
    with pytest.raises(TriageError, match=r"ends in \.tar\.gz"):
        export_tarball(lora_run, tmp_path / "run.zip")
    (tmp_path / "x.tar.gz").mkdir()
    with pytest.raises(TriageError, match="is a folder"):
        export_tarball(lora_run, tmp_path / "x.tar.gz")
