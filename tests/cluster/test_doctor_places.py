"""The folders, offline and Slurm sections of `triage doctor`."""

from __future__ import annotations

import errno
import json
import os
import shutil
import struct

import pytest
from site_check_cluster import paper_cluster, partition

from triagekit.cluster.doctor.folders import (
    RAY_SOCKET,
    SOCKET_PATH,
    check_folders,
    check_temporary,
    look_at,
    try_writing,
)
from triagekit.cluster.doctor.offline import check_base, check_offline, check_variables, find_hub_cache, missing_parts
from triagekit.cluster.doctor.slurm import check_cluster, check_slurm


def write_weights(path, values=16, cut=0):
    header = json.dumps({"weight": {"dtype": "F32", "shape": [values], "data_offsets": [0, 4 * values]}}).encode()
    path.write_bytes((struct.pack("<Q", len(header)) + header + bytes(4 * values))[: -cut or None])


def write_model(folder, **weights):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    write_weights(folder / "model.safetensors", **weights)
    return folder


def test_ray_needs_a_short_temporary_folder(tmp_path):
    fits = SOCKET_PATH - len(RAY_SOCKET)
    short = tmp_path / "s"
    short.mkdir()
    long = tmp_path / ("x" * fits)
    long.mkdir()
    assert check_temporary({"TMPDIR": "/tmp"}).status == "ok"
    finding = check_temporary({"TMPDIR": str(long)})
    assert finding.status == "problem" and finding.fix == "export RAY_TMPDIR=/tmp"
    assert check_temporary({"TMPDIR": str(long), "RAY_TMPDIR": "/tmp"}).status == "ok"
    assert check_temporary({"TMPDIR": str(tmp_path / "gone")}).fix == "export TMPDIR=/tmp"


def test_the_socket_limit_is_the_systems(tmp_path):
    import socket

    def bind(length):
        path = str(tmp_path) + "/" + "x" * (length - len(str(tmp_path)) - 1)
        with socket.socket(socket.AF_UNIX) as trial:
            trial.bind(path)

    bind(SOCKET_PATH)
    with pytest.raises(OSError, match="too long"):
        bind(SOCKET_PATH + 1)


def test_a_cache_on_home_is_noted_on_a_cluster_only(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("HF_HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    here = check_folders(on_cluster=False)[0]
    assert here.name == "HF_HOME" and here.status == "ok" and str(tmp_path) in here.detail
    there = check_folders(on_cluster=True)[0]
    assert there.status == "note" and "quota" in there.detail and "HF_HOME" in there.fix
    assert look_at(tmp_path).system


def test_folders_of_the_site_are_looked_at(tmp_path):
    (tmp_path / "file").write_text("")
    found = {item.name: item for item in check_folders(True, str(tmp_path / "file"), str(tmp_path / "new"))}
    assert found["site's scratch"].status == "problem" and found["site's scratch"].fix
    assert "made when needed" in found["site's cache"].detail
    assert check_folders(True, "/scratch/$NOT_YET")[1].status == "note"


def test_a_folder_over_its_quota_is_a_problem(tmp_path, monkeypatch):
    def refuse(descriptor):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.chdir(tmp_path)
    assert try_writing(tmp_path) == "" and not list(tmp_path.iterdir())
    monkeypatch.setattr(os, "fsync", refuse)
    found = {item.name: item for item in check_folders(False)}
    assert found["working folder"].status == "problem" and "quota" in found["working folder"].detail
    assert "quota -s" in found["working folder"].fix and not list(tmp_path.iterdir())


def test_the_embedded_base_is_always_ready(tmp_path):
    finding = check_base("embedded", tmp_path)
    assert finding.status == "ok" and "ships with triagekit" in finding.detail


def test_a_base_in_a_folder_must_be_whole(tmp_path):
    folder = write_model(tmp_path / "model")
    assert check_base(str(folder), tmp_path).status == "ok"
    write_weights(folder / "model.safetensors", cut=5)
    (folder / "tokenizer.json").unlink()
    finding = check_base(str(folder), tmp_path)
    assert finding.status == "problem" and "no tokenizer.json" in finding.detail
    assert "model.safetensors has" in finding.detail and "Copy the folder" in finding.fix
    assert check_base(str(tmp_path / "gone" / "x" / "y"), tmp_path).status == "problem"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "no safetensors file"),
        (b"", "no safetensors file"),
        (struct.pack("<Q", 2) + b"[]", "has no valid header"),
        (struct.pack("<Q", 4) + b"{not", "has no valid header"),
    ],
)
def test_weights_that_are_none(tmp_path, content, words):
    folder = write_model(tmp_path / "model")
    (folder / "model.safetensors").write_bytes(content)
    missing = missing_parts(folder)
    assert len(missing) == 1 and words in missing[0]


def test_a_base_in_the_hub_cache(tmp_path):
    cache = tmp_path / "hub"
    missing = check_base("someone/some-model", cache)
    assert missing.status == "problem" and missing.fix.endswith(f"HF_HOME={tmp_path} hf download someone/some-model")
    model = cache / "models--someone--some-model"
    old = write_model(model / "snapshots" / "aaa")
    assert check_base("someone/some-model", cache).status == "ok"
    new = write_model(model / "snapshots" / "bbb")
    (new / "model.safetensors").unlink()
    (new / "model.safetensors").symlink_to("../../blobs/gone")
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("bbb")
    broken = check_base("someone/some-model", cache)
    assert broken.status == "problem" and "interrupted download" in broken.detail
    (model / "refs" / "main").write_text("aaa")
    assert str(old) in check_base("someone/some-model", cache).detail


def test_weights_in_several_files_must_all_be_there(tmp_path):
    folder = write_model(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    names = [f"model-0000{number}-of-00005.safetensors" for number in range(1, 6)]
    index = {"weight_map": {f"layer{number}": name for number, name in enumerate(names)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    write_weights(folder / names[0])
    assert missing_parts(folder) == [f"{name} is missing" for name in names[1:]]
    assert "and 1 more" in check_base(str(folder), tmp_path).detail
    for name in names:
        write_weights(folder / name)
    assert missing_parts(folder) == []
    (folder / "model.safetensors.index.json").write_text("[]")
    assert missing_parts(folder) == ["model.safetensors.index.json cannot be read"]


def test_the_cache_folder_follows_the_variables(tmp_path, monkeypatch):
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", "/elsewhere")
    assert find_hub_cache({"HF_HOME": "/a"}).as_posix() == "/a/hub"
    assert find_hub_cache({"HF_HOME": "/a", "HF_HUB_CACHE": "/b"}).as_posix() == "/b"
    assert find_hub_cache({"XDG_CACHE_HOME": "/c"}).as_posix() == "/c/huggingface/hub"
    assert check_offline("someone/model", cache=str(tmp_path))[0].detail == f"not in the cache {tmp_path / 'hub'}"
    # A job inherits what is set here, and this one wins over the site's HF_HOME.
    monkeypatch.setenv("HF_HUB_CACHE", "/chosen")
    assert check_offline("someone/model", cache=str(tmp_path))[0].detail == "not in the cache /chosen"


def test_variables_matter_only_for_bases_of_the_hub():
    every = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "true", "HF_DATASETS_OFFLINE": "ON"}
    assert check_variables("a/b", every, False).status == "ok"
    finding = check_variables("a/b", every | {"HF_HUB_OFFLINE": "0"}, False)
    assert finding.status == "note" and finding.fix.startswith("export HF_HUB_OFFLINE=1,")
    assert check_variables("a/b", {}, True).status == "ok"
    assert check_variables("embedded", {}, False).status == "ok"


def test_a_machine_without_slurm_is_no_problem(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("scontrol") is None
    assert [finding.status for finding in check_slurm()] == ["note"]


def test_settings_of_slurm_are_explained():
    findings = {finding.name: finding for finding in check_cluster(paper_cluster())}
    assert "23.11.4" in findings["version"].detail
    assert "cpu (2 nodes, at most 7 d, 1 h if none is given)" in findings["partitions"].detail
    assert findings["preemption"].status == "ok" and "jobs in a100 can be preempted" in findings["preemption"].detail
    other = {"JobRequeue": "0", "SlurmctldParameters": "(null)", "EnforcePartLimits": "ALL", "MaxArraySize": "0"}
    findings = {finding.name: finding for finding in check_cluster(paper_cluster(other))}
    assert [findings[name].status for name in ("JobRequeue", "preemption", "EnforcePartLimits", "MaxArraySize")] == [
        "note",
        "note",
        "ok",
        "note",
    ]
    assert "SIGTERM 60 s before" in findings["preemption"].detail
    quiet = {finding.name: finding for finding in check_cluster(paper_cluster({"PreemptType": "preempt/none"}))}
    assert quiet["preemption"].detail.startswith("off")
    assert "hidden" not in partition("x", "y", 1)
