"""Archives read from an object store, and scores copied to one: the real protocols of S3 and Google Cloud Storage, spoken by
servers of this machine."""

from __future__ import annotations

import gzip
import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from scoring_helpers import settings_for, table_of, write_archive

from triagekit.cli.main import main
from triagekit.data.sources import read_source, source_files
from triagekit.errors import TriageError
from triagekit.files.remote import RemotePath, any_path, place_of, shown_url
from triagekit.scoring.job import score_archive
from triagekit.scoring.publish import INDEX_FILE, publish_scores


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture(scope="module")
def google_server() -> Iterator[str]:
    """In a process of its own: pyarrow keeps Python's lock while it waits for an answer."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["-m", "gcp_storage_emulator", "start", "--host=127.0.0.1", f"--port={port}", "--in-memory"]
    running = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            assert running.poll() is None and time.monotonic() < deadline, "the server does not start"
            time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    running.terminate()
    running.wait(30)


@pytest.fixture
def s3_bucket(server: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A URL of an empty bucket, with what reaches it in the environment."""
    for name, value in {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TRIAGEKIT_OFFLINE", raising=False)
    name = f"b{abs(hash(request.node.name))}"
    urllib.request.urlopen(urllib.request.Request(f"{server}/{name}", method="PUT")).close()
    return f"s3://{name}"


@pytest.fixture
def gs_bucket(google_server: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """The same of Google Cloud Storage."""
    monkeypatch.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", google_server)
    monkeypatch.delenv("TRIAGEKIT_OFFLINE", raising=False)
    name = f"b{abs(hash(request.node.name))}"
    asked = urllib.request.Request(
        f"{google_server}/storage/v1/b?project=p",
        json.dumps({"name": name}).encode(),
        {"Content-Type": "application/json"},
    )
    urllib.request.urlopen(asked).close()
    return f"gs://anonymous@{name}"


@pytest.fixture(params=["s3", "gs"])
def bucket(request: pytest.FixtureRequest) -> str:
    """A bucket of each."""
    return str(request.getfixturevalue(f"{request.param}_bucket"))


def put(url: str, local: Path) -> None:
    place = any_path(url)
    assert isinstance(place, RemotePath)
    place.write_from(local)


def test_files_are_read_as_from_a_disk(bucket: str, tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    local = tmp_path / "archive"
    (local / "deep").mkdir(parents=True)
    write_archive(local / "one.csv", 30)
    (local / "deep" / "two.jsonl.gz").write_bytes(gzip.compress(b'{"id": "J-1", "text": "VPN is down"}\n' * 3))
    parquet.write_table(pyarrow.table({"id": ["P-1", "P-2"], "text": ["a", "b"]}), local / "three.parquet")
    (local / "_hidden.csv").write_text("id,text\n")
    for path in local.rglob("*"):
        if path.is_file():
            put(f"{bucket}/export/{path.relative_to(local)}", path)
    remote = any_path(f"{bucket}/export")
    assert [file.name for file in source_files(remote)] == ["two.jsonl.gz", "one.csv", "three.parquet"]
    assert list(read_source(remote)) == list(read_source(local))
    assert any_path(place_of(remote)) == remote
    with (remote / "one.csv").open("rb") as handle:
        handle.seek(10)
        assert handle.read(7) == (local / "one.csv").read_bytes()[10:17]
    shown = shown_url(bucket)
    # pyarrow lists no folders of Google's buckets that nobody has made by themselves.
    hint = rf".*Did you mean '{shown}/export'" if shown.startswith("s3") else ""
    with pytest.raises(TriageError, match=rf"No file or folder at {shown}/exprt\.{hint}"):
        source_files(any_path(f"{bucket}/exprt"))


def test_scored_from_a_bucket_into_a_bucket(
    bucket: str,
    adapter: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Real Ray workers read their shards where they lie; the copy is complete before its manifest is there."""
    monkeypatch.setattr("triagekit.files.file_state.SETTLED_SECONDS", 0)
    archive = tmp_path / "tickets.csv"
    ids = write_archive(archive, 40)
    put(f"{bucket}/in/tickets.csv", archive)
    words = ["score", f"{bucket}/in/tickets.csv", "--run", str(adapter), "--out", str(tmp_path / "out")]
    words += ["--shard-rows", "16", "--batch-size", "16", "--workers", "1", "--device", "cpu"]
    assert main([*words, "--publish", f"{bucket}/scores"]) == 0
    assert f"{shown_url(bucket)}/scores" in capsys.readouterr().out
    assert [row["id"] for row in table_of(tmp_path / "out")] == ids
    there = any_path(f"{bucket}/scores")
    assert isinstance(there, RemotePath)
    names = {path.name for path in there.rglob("*")}
    parts = {f"part-0000{number}.parquet" for number in range(3)}
    assert names == parts | {"job.json", "plan.json", "rejects.jsonl", "manifest.json", INDEX_FILE}
    assert (there / "part-00001.parquet").read_bytes() == (tmp_path / "out" / "part-00001.parquet").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("triagekit.scoring.input_files.sha256_file", None)  # an object is known by its size and time
        assert main(words) == 0
    # The same scores from the local file: where an archive lies makes no other job of it.
    manifest = score_archive(settings_for(adapter, archive, tmp_path / "out"))
    assert manifest.scored_now == 0


def finished_job(folder: Path, fingerprint: str = "f") -> Path:
    folder.mkdir()
    (folder / "jobs").mkdir()
    for name in ("part-00000.parquet", "part-00001.parquet", "plan.json", "status.json", ".part.tmp", "jobs/log"):
        (folder / name).write_text(name)
    (folder / "job.json").write_text(json.dumps({"fingerprint": fingerprint}))
    (folder / "manifest.json").write_text("{}")
    return folder


def test_a_copy_that_was_cut_off_has_no_manifest_and_goes_on(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, url = finished_job(tmp_path / "out"), f"{bucket}/scores"
    there = any_path(url)
    assert isinstance(there, RemotePath)
    assert publish_scores(folder, url).to_dict() == {"url": shown_url(url), "files": 5, "copied": 5}
    assert {path.name for path in there.rglob("*")} == {
        *("part-00000.parquet", "part-00001.parquet", "plan.json", "job.json", "manifest.json", INDEX_FILE)
    }
    assert publish_scores(folder, url).copied == 1, "the manifest alone"
    (folder / "part-00001.parquet").write_text("PART-00001.parquet")
    real = RemotePath.write_from

    def cut(self: RemotePath, local: Path) -> None:
        if self.name == "part-00001.parquet":
            raise KeyboardInterrupt
        real(self, local)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RemotePath, "write_from", cut)
        publish_scores(folder, url)
    assert not any_path(f"{url}/manifest.json").is_file()
    assert publish_scores(folder, url).copied == 2
    assert any_path(f"{url}/part-00001.parquet").open("rb").read() == b"PART-00001.parquet"
    with pytest.raises(TriageError, match="another job's scores"):
        publish_scores(finished_job(tmp_path / "other", "g"), url)
    (folder / "manifest.json").unlink()
    with pytest.raises(TriageError, match="not finished"):
        publish_scores(folder, url)


def test_what_cannot_be_used_is_said_before_anything_is_read(
    s3_bucket: str, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_archive(tmp_path / "a.csv", 2)
    for url, message in (("scores/2024", "is no URL"), ("s4://bucket/x", "cannot be used.*s3://")):
        with pytest.raises(TriageError, match=message):
            score_archive(settings_for(adapter, tmp_path / "a.csv", tmp_path / "out", publish=url))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(TriageError, match="cannot be reached"):
        any_path(f"{s3_bucket}/x").is_file()
    monkeypatch.setenv("TRIAGEKIT_OFFLINE", "1")
    with pytest.raises(TriageError, match="on the network, but this process is offline"):
        any_path(f"{s3_bucket}/x")


def test_credentials_are_not_shown() -> None:
    assert shown_url("s3://key:secret@bucket/x?endpoint_override=h") == "s3://bucket/x"
    assert shown_url("s3://bucket/mail@home.csv") == "s3://bucket/mail@home.csv"
    assert isinstance(any_path("C:/tickets.csv"), Path)


def test_offline_is_told_to_our_own_code(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    from triagekit.cli.main import go_offline

    for name in ("TRIAGEKIT_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "0")
    go_offline()
    assert os.environ["TRIAGEKIT_OFFLINE"] == "1"
