"""Archives scored with real Ray: nothing twice, nothing lost, whatever is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from scoring_helpers import TICKETS_SCHEMA, make_adapter, many_tickets, settings_for, table_of, write_archive

from triagekit.decoding.kernels.build import library
from triagekit.errors import ProblemsError, TriageError
from triagekit.progress import SilentProgress
from triagekit.schema import validate_record
from triagekit.scoring.confidence_map import ConfidenceMap, StoredCalibration, write_calibration
from triagekit.scoring.job import score_archive
from triagekit.scoring.part_columns import column_kinds
from triagekit.scoring.part_formats import read_columns
from triagekit.scoring.predictor import Predictor
from triagekit.scoring.settings import ScoreSettings
from triagekit.scoring.status import read_status


@pytest.fixture(scope="module", autouse=True)
def ray_in_this_process() -> Iterator[None]:
    """One Ray for the jobs of this process: starting it takes longer than they do."""
    import ray

    from triagekit.scoring.layout import start_ray

    assert start_ray(None, workers=3, gpus=0)
    assert not start_ray(None, workers=3, gpus=0)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def finished(adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[str], Any]:
    """A small archive with bad rows among the good ones, scored once."""
    folder = tmp_path_factory.mktemp("archive")
    archive = folder / "tickets.csv"
    ids = write_archive(archive, 40)
    with archive.open("a", encoding="utf-8") as handle:
        handle.write(f"{ids[3]},the same id again\nE-1,\nE-2,   \nE-3,too,many,cells\n")
    manifest = score_archive(settings_for(adapter, archive, folder / "out"))
    return archive, folder / "out", ids, manifest


def test_some_fields_in_eight_bits(adapter: Path, finished: Any, tmp_path: Path) -> None:
    archive, _, ids, _ = finished
    settings = settings_for(adapter, archive, tmp_path / "out", fields=["labels"], precision="int8")
    manifest = score_archive(settings)
    assert manifest.rows_out == len(ids)
    rows = table_of(tmp_path / "out")
    assert [row["id"] for row in rows] == ids
    assert "summary" not in rows[0] and "confidence_summary" not in rows[0]
    assert all(row["category"] and row["subcategory"] and row["priority"] for row in rows)
    with pytest.raises(ProblemsError, match="begun as another job") as refusal:
        score_archive(settings_for(adapter, archive, tmp_path / "out", precision="int8"))
    assert 'fields: begun with ["labels"], now null' in str(refusal.value)
    with pytest.raises(ProblemsError, match="does not have it"):
        score_archive(settings_for(adapter, archive, tmp_path / "other", fields=["categori"]))


def test_every_row_is_accounted_for(finished: Any) -> None:
    _, out, ids, manifest = finished
    assert [row["id"] for row in table_of(out)] == ids
    assert (manifest.rows_in, manifest.rows_out, manifest.rejects) == (44, 40, 4)
    assert [part["rows"] for part in manifest.parts] == [16, 16, 8]
    assert manifest.reject_reasons["repeated id"] == 1 and manifest.reject_reasons["empty text"] == 2
    rejects = [json.loads(line) for line in (out / "rejects.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rejects) == 4
    repeated = next(row for row in rejects if row["reason"] == "repeated id")
    assert repeated["id"] == ids[3] and repeated["line"] == 42 and "tickets.csv:5" in repeated["detail"]
    assert json.loads((out / "manifest.json").read_text(encoding="utf-8")) == manifest.to_dict()
    assert not list(out.glob(".*.tmp"))
    # 40 tickets in three shards and batches of 16: the last shard and every last record leave places empty.
    assert manifest.decoding is not None and manifest.decoding["tokens_per_ticket"] > 20
    padding = manifest.decoding["prompt_padding"]
    assert padding == 0 if library("packed_attention") is not None else 0 < padding < 1
    assert 0 <= manifest.decoding["idle_slots"] < 1


def test_parts_hold_what_the_predictor_says(finished: Any, adapter: Path) -> None:
    _, out, _ids, manifest = finished
    predictor = Predictor.from_run(adapter, device="cpu", batch_size=16)
    rows = table_of(out)
    assert rows[0].keys() >= {"id", "summary", "confidence_summary", "verdict", "error", "raw"}
    for row, expected in zip(rows, predictor.predict(many_tickets(40)), strict=True):
        record = {name: row[name] for name in predictor.schema.field_names}
        assert record == expected.record and validate_record(predictor.schema, record) == []
        for name, value in expected.confidence.items():
            assert row[f"confidence_{name}"] == pytest.approx(value, abs=1e-4)
        assert (row["verdict"], row["error"], row["raw"]) == ("auto", None, None)
        assert (
            row["adapter_fingerprint"] == predictor.adapter.card["fingerprint"] == manifest.job["adapter_fingerprint"]
        )
        assert row["schema_fingerprint"] == predictor.schema.fingerprint


def test_a_rerun_scores_nothing_and_damaged_parts_are_redone(
    finished: Any, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, out, _ids, _ = finished
    before = table_of(out)
    with monkeypatch.context() as patch:
        patch.setattr("triagekit.scoring.job.make_plans", None)  # the frozen plan is gone by
        again = score_archive(settings_for(adapter, archive, out))
    assert (again.rows_in, again.rejects) == (44, 4)
    assert (again.scored_now, again.parts_kept, again.workers) == (0, 3, 0)
    part = out / "part-00000.parquet"
    content = bytearray(part.read_bytes())
    content[40] ^= 0xFF
    part.write_bytes(content)
    (out / "part-00002.parquet").write_bytes((out / "part-00002.parquet").read_bytes()[:-100])
    (out / ".part-00001.parquet.x.tmp").write_bytes(b"half")
    mended = score_archive(settings_for(adapter, archive, out))
    assert (mended.scored_now, mended.parts_kept, len(mended.parts_redone)) == (24, 1, 2)
    assert "part-00000" in mended.parts_redone[0] and "part-00002" in mended.parts_redone[1]
    assert table_of(out) == before
    assert not list(out.glob(".*.tmp"))


def test_a_restart_reads_none_of_the_input(adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its content is known by what the file system says of it, and the plan stands."""
    monkeypatch.setattr("triagekit.files.file_state.SETTLED_SECONDS", 0)
    archive, out = tmp_path / "tickets.csv", tmp_path / "out"
    ids = write_archive(archive, 20)
    score_archive(settings_for(adapter, archive, out))
    (out / "part-00000.parquet").unlink()
    with monkeypatch.context() as patch:
        patch.setattr("triagekit.scoring.input_files.sha256_file", None)
        patch.setattr("triagekit.scoring.job.make_plans", None)
        assert score_archive(settings_for(adapter, archive, out)).scored_now == 16
    assert [row["id"] for row in table_of(out)] == ids
    before = archive.stat()
    archive.write_text(archive.read_text(encoding="utf-8").replace("#3", "#E", 1), encoding="utf-8")
    os.utime(archive, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ProblemsError, match=r"input: changed: tickets\.csv"):
        score_archive(settings_for(adapter, archive, out))


def test_a_part_of_other_rows_is_redone(finished: Any) -> None:
    from triagekit.scoring.parts import DamagedPart, read_part

    _, out, _, manifest = finished
    fingerprint = manifest.parts[0]["fingerprint"]
    assert read_part(out / "part-00000.parquet", 0, fingerprint, 16).rows == 16
    with pytest.raises(DamagedPart, match="other rows"):
        read_part(out / "part-00001.parquet", 0, fingerprint, 16)
    with pytest.raises(DamagedPart, match="16 rows instead of 15"):
        read_part(out / "part-00000.parquet", 0, fingerprint, 15)


def test_another_job_is_refused_with_all_that_differs(
    finished: Any, tiny_model_folder: Path, adapter: Path, tmp_path: Path
) -> None:
    archive, out, _, _ = finished
    other = make_adapter(tmp_path / "other", tiny_model_folder, seed=9)
    with pytest.raises(ProblemsError) as refused:
        score_archive(settings_for(other, archive, out, shard_rows=8, auto_threshold=0.5, text_column="text"))
    assert [problem.where for problem in refused.value.problems] == [
        "adapter",
        "mapping",
        "shard_rows",
        "auto_threshold",
    ]
    changed = tmp_path / archive.name
    changed.write_text(archive.read_text(encoding="utf-8") + "E-9,one more\n", encoding="utf-8")
    with pytest.raises(ProblemsError, match=r"input: changed: tickets\.csv"):
        score_archive(settings_for(adapter, changed, out))
    with pytest.raises(TriageError, match="holds other things"):
        score_archive(settings_for(adapter, archive, archive.parent))


@pytest.fixture(scope="module")
def appended(finished: Any, adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ScoreSettings, Any]:
    """The same archive a week later: two tickets changed, five new; as CSV, split, with calibrated confidences."""
    archive, out, ids, _ = finished
    folder = tmp_path_factory.mktemp("later")
    lines = archive.read_text(encoding="utf-8").splitlines(keepends=True)
    lines[7] = f"{ids[6]},changed since\n"
    lines[20] = f"{ids[19]},=changed too\n"
    later = folder / archive.name
    later.write_text("".join(lines) + "".join(f"-N{number},new {number}\n" for number in range(5)), encoding="utf-8")
    run = folder / "run"
    shutil.copytree(adapter, run / "adapter")
    card = json.loads((adapter / "triagekit.json").read_text(encoding="utf-8"))
    maps = dict.fromkeys(("category", "subcategory", "priority"), ConfidenceMap(1.5, 0.5))
    write_calibration(
        run,
        StoredCalibration(
            card["fingerprint"], card["schema_fingerprint"], "data", "val", 80, maps, ConfidenceMap(1.0, 1.0)
        ),
    )
    settings = settings_for(
        run / "adapter",
        later,
        folder / "out",
        output_format="csv",
        partition_by="category",
        append_since=str(out),
        auto_at=0.5,
        shard_rows=4,
    )
    return folder / "out", settings, score_archive(settings)


def test_only_what_is_new_or_changed_is_scored(finished: Any, appended: Any) -> None:
    _, _, ids, before = finished
    out, settings, manifest = appended
    assert (manifest.rows_in, manifest.rows_out, manifest.rejects, manifest.unchanged) == (49, 7, 4, 38)
    kinds = column_kinds(TICKETS_SCHEMA, True)
    parts = [read_columns(path, "csv", kinds) for path in sorted(out.glob("part-*.csv"))]
    assert [identity for part in parts for identity in part["id"]] == [
        ids[6],
        ids[19],
        *(f"-N{number}" for number in range(5)),
    ]
    assert "'-N0," in (out / "part-00000.csv").read_text(encoding="utf-8")
    assert manifest.job["append_since"] == before.job["fingerprint"]
    # The third job knows the rows of both.
    third = settings.model_copy(update={"out": str(out.parent / "third"), "append_since": str(out)})
    assert (score_archive(third).rows_out, score_archive(third).unchanged) == (0, 45)
    with pytest.raises(TriageError, match="cannot come before itself"):
        score_archive(settings.model_copy(update={"append_since": str(out)}))
    with pytest.raises(TriageError, match="holds no finished job"):
        score_archive(third.model_copy(update={"append_since": str(out.parent)}))


def test_an_earlier_job_of_another_adapter_is_refused(
    appended: Any, tiny_model_folder: Path, tmp_path: Path, finished: Any
) -> None:
    _, settings, _ = appended
    other = make_adapter(tmp_path / "other", tiny_model_folder, seed=9)
    changed = {"run": str(other), "out": str(tmp_path / "out"), "auto_at": None, "partition_by": None}
    with pytest.raises(ProblemsError, match="scored in another way") as refused:
        score_archive(settings.model_copy(update=changed))
    assert [problem.where for problem in refused.value.problems] == ["adapter"]
    kept = {**changed, "archive": str(finished[0]), "append_any": True}
    assert score_archive(settings.model_copy(update=kept)).unchanged == 40


def test_the_threshold_is_on_calibrated_confidence(appended: Any, adapter: Path) -> None:
    out, settings, manifest = appended
    columns = read_columns(out / "part-00000.csv", "csv", column_kinds(TICKETS_SCHEMA, True))
    raw = [columns[f"raw_confidence_{name}"][0] for name in ("category", "subcategory", "priority")]
    assert columns["confidence_category"][0] == pytest.approx(ConfidenceMap(1.5, 0.5)(raw[0]))
    assert columns["confidence_record"][0] == pytest.approx(ConfidenceMap(1.0, 1.0)(raw[0] * raw[1] * raw[2]))
    for verdict, chance in zip(columns["verdict"], columns["confidence_record"], strict=True):
        assert verdict == ("auto" if chance >= 0.5 else "review")
    policy = manifest.policy
    assert policy["coverage"] == manifest.verdicts.get("auto", 0) / 7
    assert policy["calibrated_columns"][0] == "confidence_record" and len(policy["raw_columns"]) == 3
    assert sum(manifest.confidence_histogram["record"]) == 7
    assert sum(manifest.distribution["category"]["values"].values()) == 7
    with pytest.raises(TriageError, match=r"has no calibration.*triage evaluate .* --calibrate"):
        score_archive(settings.model_copy(update={"run": str(adapter), "out": str(out.parent / "none")}))
    with pytest.raises(ValueError, match="decide the same thing"):
        settings_for(adapter, out, out, auto_at=0.9, auto_threshold=0.9)
    with pytest.raises(ValueError, match="leave constrained true"):
        settings_for(adapter, out, out, auto_at=0.9, constrained=False)
    for off in (False, "off", 0):
        assert settings_for(adapter, out, out, summary=off).fields == ["labels"]
    with pytest.raises(ValueError, match="leave constrained true, or fields null and summary on"):
        settings_for(adapter, out, out, summary=False, constrained=False)
    with pytest.raises(ValueError, match="leave one of them away"):
        settings_for(adapter, out, out, summary=False, fields=["category"])


def test_the_rows_stand_once_more_by_category_and_the_job_says_it_is_done(appended: Any) -> None:
    out, settings, manifest = appended
    assert sum(manifest.partitions["rows"].values()) == 7
    split = sorted((out / "by_category").rglob("part-*.csv"))
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) - 1 for path in split) == 7
    status = read_status(out)
    assert (status["state"], status["rows_scored"], status["unchanged"], status["rejects"]) == ("finished", 7, 38, 4)
    assert [row["rows"] for row in status["workers"]] == [7]
    # A part whose ledger entry a kill has prevented is scored again; the others are kept.
    before = (out / "part-00001.csv").read_bytes()
    (out / "_ledger" / "part-00001.csv.json").unlink()
    again = score_archive(settings)
    assert (again.scored_now, again.parts_kept) == (3, 1) and "not finished" in again.parts_redone[0]
    assert (out / "part-00001.csv").read_bytes() == before


def test_two_drivers_do_not_share_a_folder(finished: Any, adapter: Path) -> None:
    from triagekit.scoring.lock import folder_lock

    archive, out, _, _ = finished
    with folder_lock(out), pytest.raises(TriageError, match=f"process {os.getpid()}"):
        score_archive(settings_for(adapter, archive, out))


class _KillWorkers(SilentProgress):
    """Kills the worker process with -9 at the first part that is finished."""

    def __init__(self) -> None:
        self.killed = 0

    def advance(self, count: int = 1, **figures: object) -> None:
        if self.killed or not figures:
            return
        for process in psutil.Process().children(recursive=True):
            if "ScoreWorker" in " ".join(process.cmdline()):
                process.send_signal(signal.SIGKILL)
                self.killed += 1


def test_a_killed_worker_costs_no_row(adapter: Path, tmp_path: Path) -> None:
    ids = write_archive(tmp_path / "tickets.csv", 96)
    progress = _KillWorkers()
    manifest = score_archive(settings_for(adapter, tmp_path / "tickets.csv", tmp_path / "out"), progress)
    assert progress.killed == 1 and manifest.lost_workers == 1
    assert [row["id"] for row in table_of(tmp_path / "out")] == ids


@pytest.mark.long
def test_workers_that_keep_dying_end_the_job_with_advice(adapter: Path, tmp_path: Path) -> None:
    write_archive(tmp_path / "tickets.csv", 100)
    settings = settings_for(adapter, tmp_path / "tickets.csv", tmp_path / "out", worker_restarts=0)
    with pytest.raises(TriageError, match="workers died"):
        score_archive(settings, _KillWorkers())
    assert not (tmp_path / "out" / "manifest.json").exists()
