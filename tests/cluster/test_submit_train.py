"""Submitting a training run: stored as submitted, never twice, on the rung that policy and Slurm give."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import yaml
from fake_slurm import FakeSlurm, processed_data, refused, starts, words_after

from triagekit.cluster import slurm_commands
from triagekit.cluster.job_folder import JobFolder, is_job_folder, job_folders, next_job_folder
from triagekit.cluster.sbatch_script import SbatchScript
from triagekit.cluster.site_rungs import SubmitOptions
from triagekit.cluster.sites import load_site
from triagekit.cluster.slurm_errors import SlurmError
from triagekit.cluster.submit import submit_job
from triagekit.cluster.submit_train import submit_train
from triagekit.errors import ProblemsError, TriageError
from triagekit.hardware.ladder import load_ladder
from triagekit.training.run_folder import RunFolder
from triagekit.training.train import load_train_settings

RUN = Path("runs/mine")


def started(hours, partition="gpuA"):
    when = (datetime.now() + timedelta(hours=hours)).replace(microsecond=0)
    return starts(when.isoformat(), partition)


@pytest.fixture
def fake(tmp_path, monkeypatch):
    commands = FakeSlurm(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{commands.folder}:/usr/bin:/bin")
    monkeypatch.setattr(slurm_commands.time, "sleep", lambda seconds: None)
    project = tmp_path / "project"
    processed_data(project / "data")
    monkeypatch.chdir(project)
    return commands


def settings(*words):
    return load_train_settings("lora", ["data=data", *words], "mine")


def submit(*words, site="generic", notes=print, dependency=None, **options):
    return submit_train(
        settings(*words), load_site(site), SubmitOptions(**options), notes, dependency=dependency, given="lora"
    )


def test_everything_is_stored_as_submitted(fake):
    fake.answers("sbatch", started(1), started(1), started(0), ("41\n", "", 0))
    done = submit("seed=3")
    folder = RUN / "jobs" / "1-train"
    assert (done.job.job_id, done.job.rung, done.job.folder) == ("41", "2xA100", folder)
    assert fake.calls("sbatch")[-1] == ["--parsable", str(folder.absolute() / "job.sbatch")]
    card = JobFolder(folder).read()
    assert (
        card["job_id"] == "41" and card["rung"] == "2xA100" and card["site"] == "generic" and card["config"] == "lora"
    )
    assert card["run"] == "runs/mine" and [row["rung"] for row in card["starts"]] == ["2xA100", "1xA100", "cpu"]
    text = (folder / "job.sbatch").read_text()
    assert words_after("output", text) == "runs/mine/jobs/1-train/%j.log"
    assert words_after("chdir", text) == str(Path.cwd())
    assert "train runs/mine/jobs/1-train/config.yaml hardware.rung=2xA100" in text
    assert load_site(str(folder / "site.yaml")) == load_site("generic")


def test_the_job_trains_from_its_own_copy(fake):
    Path("mine.yaml").write_text("data: data\nseed: 5\nname: mine\n")
    fake.answers("sbatch", started(0), started(0), started(0), ("41\n", "", 0))
    submit_train(load_train_settings("mine.yaml", []), load_site("generic"), SubmitOptions(), print)
    Path("mine.yaml").write_text("data: data\nseed: 6\nname: mine\n")
    stored = load_train_settings(str(RUN / "jobs/1-train/config.yaml"), ["hardware.rung=1xA100"])
    assert stored.seed == 5 and stored.run_name == "mine" and RunFolder(RUN).settings()["seed"] == 5
    RunFolder.create(RUN, stored.model_dump(mode="json"), "")  # what the job does: the run is its own


def test_a_dry_run_writes_and_submits_nothing(fake):
    fake.answers("sbatch", started(0))
    done = submit(dry_run=True)
    assert done.job.job_id is None and "hardware.rung=2xA100" in done.job.text
    assert not Path("runs").exists()
    assert all("--test-only" in words for words in fake.calls("sbatch"))


def test_a_dry_run_without_slurm_goes_by_the_order(fake, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    notes = []
    assert submit(dry_run=True, notes=notes.append).job.rung == "2xA100"
    assert any("No Slurm on this machine" in note for note in notes)


def test_policy_and_reasons_reach_the_job(fake):
    fake.answers("sbatch", started(9), started(1), started(0, "cpu"), ("41\n", "", 0))
    done = submit(policy="best-within", patience="4h")
    assert done.job.rung == "1xA100"
    (line,) = done.choice.passed_over
    assert line == "2xA100: starts in 9 h, later than the 4 h it is worth waiting for"
    text = done.job.script.read_text()
    assert f"export TRIAGEKIT_PASSED_OVER='{json.dumps([line])}'" in text
    assert done.job.script.parent.joinpath("job.json").read_text().count(line) == 1


def test_the_sites_policy_is_the_default_and_a_wrong_patience_is_told(fake):
    fake.answers("sbatch", started(9), started(1), started(0, "cpu"), ("41\n", "", 0))
    with pytest.raises(TriageError, match="--patience: 'soon' is not"):
        submit(patience="soon")
    site = load_site("generic", ["policy=soonest"])
    done = submit_train(settings(), site, SubmitOptions(), print)
    assert done.job.rung == "cpu"


def test_a_rung_that_is_asked_for_is_taken_whatever_slurm_says(fake):
    fake.answers("sbatch", refused("Requested node configuration is not available"), ("41\n", "", 0))
    notes = []
    done = submit(rung="1xA100", notes=notes.append)
    assert done.job.rung == "1xA100" and any("although: Slurm: Requested node" in note for note in notes)
    with pytest.raises(TriageError, match=r"Did you mean '1xA100'\?"):
        submit(rung="1xA10")


def test_a_rung_in_the_runs_own_settings_counts_as_asked_for(fake):
    fake.answers("sbatch", started(90), ("41\n", "", 0))
    assert submit("hardware.rung=cpu").job.rung == "cpu"


def test_what_does_not_fit_by_the_plan_is_passed_over(fake):
    fake.answers("sbatch", started(0, "cpu"), ("41\n", "", 0))
    site = load_site(
        "generic",
        ["rungs={4GB: {partition: gpu}, cpu: {partition: cpu}}", "ladder_overrides={rungs: {4GB: {memory_gb: 0.1}}}"],
    )
    done = submit_train(settings(), site, SubmitOptions(policy="best"), print)
    assert done.job.rung == "cpu"
    reasons = dict(line.split(": ", 1) for line in done.choice.passed_over)
    assert reasons["4GB"].startswith("needs ") and reasons["2xA100"] == "not served by site generic"


def test_nothing_to_be_had_submits_nothing(fake):
    fake.partitions("gpu|down", "cpu|drain")
    with pytest.raises(
        ProblemsError, match=r"(?s)2xA100 \(gpu\): partition gpu is down.*cpu \(cpu\): partition cpu is drain"
    ):
        submit()
    assert not Path("runs").exists() and not fake.calls("sbatch")


def test_a_sites_own_ladder_travels_with_the_job(fake):
    fake.answers("sbatch", started(0), started(0), started(0), started(0), ("41\n", "", 0))
    done = submit(site="test")
    assert "hardware.ladder=runs/mine/jobs/1-train/ladder.yaml" in done.job.text
    ladder = load_ladder(str(done.job.folder / "ladder.yaml"))
    assert ladder.rung("2xA100").device == "cpu" and ladder.rung("24GB") == load_ladder().rung("24GB")


def queue(job_id, command, state="PENDING"):
    cells = [
        job_id,
        job_id,
        state,
        "None",
        "gpuA",
        "0:00",
        "1:00",
        "1",
        "",
        "N/A",
        "me",
        "(null)",
        "/w",
        str(command),
        "x",
    ]
    return "\x1f".join(cells) + "\n"


def test_a_run_with_a_job_is_not_submitted_twice(fake, tmp_path):
    fake.answers("sbatch", started(0), started(0), started(0), ("41\n", "", 0))
    job = submit().job
    fake.answers("squeue", (queue("40", "/other/job.sbatch") + queue("41", job.script.absolute(), "RUNNING"), "", 0))
    with pytest.raises(TriageError, match=r"has a job already: 41 \(running, gpuA\)"):
        submit()
    # Also through another path to the same folder, and for a successor, whose id nobody wrote down.
    link = tmp_path / "link"
    link.symlink_to(Path.cwd())
    fake.answers("squeue", (queue("77", link / job.script), "", 0))
    with pytest.raises(TriageError, match=r"already: 77 \(pending"):
        submit()
    assert len(job_folders(RUN)) == 1


def test_after_its_end_a_run_can_be_submitted_again(fake):
    fake.answers(
        "sbatch",
        started(0),
        started(0),
        started(0),
        ("41\n", "", 0),
        started(0),
        started(0),
        started(0),
        ("42\n", "", 0),
    )
    submit()
    assert submit().job.folder == RUN / "jobs" / "2-train"


def test_a_finished_run_and_other_settings_are_refused(fake):
    fake.answers("sbatch", started(0), started(0), started(0), ("41\n", "", 0), started(0))
    submit("seed=1")
    with pytest.raises(ProblemsError, match=r"(?s)other settings.*seed"):
        submit("seed=2")
    assert len(job_folders(RUN)) == 1, "the refused submission leaves no folder"
    RunFolder(RUN).write_summary({"steps": 1})
    with pytest.raises(TriageError, match="is finished: there is nothing to submit"):
        submit("seed=1")


def test_data_that_are_not_there_are_told_before_anything_waits(fake):
    Path("data/manifest.json").unlink()
    with pytest.raises(TriageError, match="No processed data set at data"):
        submit()
    fake.answers("sbatch", started(0), started(0), started(0), ("41\n", "", 0))
    submit(dependency="afterok:7")
    assert "--dependency=afterok:7" in fake.calls("sbatch")[-1]
    assert "--kill-on-invalid-dep=yes" in fake.calls("sbatch")[-1]


INVALID = "Batch job submission failed: Invalid account or account/partition combination specified"


def test_a_refused_submission_of_a_new_run_leaves_nothing_in_the_way(fake):
    fake.answers(
        "sbatch",
        started(0),
        started(0),
        started(0),
        refused(INVALID),
        started(0),
        started(0),
        started(0),
        ("41\n", "", 0),
    )
    with pytest.raises(SlurmError, match=r"site\.account="):
        submit("seed=1")
    assert not RUN.exists()
    assert submit("seed=2").job.job_id == "41"


def test_a_refused_submission_of_a_run_that_is_there_takes_nothing_away(fake):
    again = [started(0), started(0), started(0)]
    fake.answers("sbatch", *again, ("41\n", "", 0), *again, refused(INVALID))
    submit()
    with pytest.raises(SlurmError):
        submit()
    assert RunFolder(RUN).config.is_file() and [job.read()["job_id"] for job in job_folders(RUN)] == ["41", None]


def test_a_submission_without_an_answer_keeps_the_jobs_files(fake, monkeypatch):
    fake.answers("sbatch", started(0), started(0), started(0), refused("Socket timed out on send/recv operation"))
    clock = iter(range(0, 100000, 100))
    monkeypatch.setattr(slurm_commands.time, "monotonic", lambda: float(next(clock)))
    with pytest.raises(SlurmError, match="did not answer"):
        submit()
    assert RunFolder(RUN).config.is_file() and job_folders(RUN)[0].script.is_file()


def test_job_folders_are_numbered_by_owner(tmp_path):
    assert next_job_folder(tmp_path, "train", dry_run=True) == tmp_path / "jobs" / "1-train" and not list(
        tmp_path.iterdir()
    )
    for number in range(1, 12):
        assert next_job_folder(tmp_path, "train" if number % 2 else "evaluate").name.startswith(f"{number}-")
    (tmp_path / "jobs" / "notes").mkdir()
    assert [int(job.folder.name.split("-")[0]) for job in job_folders(tmp_path)] == list(range(1, 12))
    assert job_folders(tmp_path)[1].kind == "evaluate" and job_folders(tmp_path)[1].owner == tmp_path
    assert is_job_folder(tmp_path / "jobs" / "1-train") and not is_job_folder(tmp_path / "jobs")


def test_any_other_job_is_stored_with_its_owner(fake):
    fake.answers("sbatch", ("50\n", "", 0), ("51\n", "", 0))
    site, script = load_site("generic"), SbatchScript({"time": "1:00:00"}, ["true"])
    first = submit_job(
        script, Path("scores/2024"), "score", site, card={"archive": "a"}, files={"config.yaml": "x: 1\n"}
    )
    assert first.folder == Path("scores/2024/jobs/1-score") and first.job_id == "50"
    assert words_after("output", first.text) == "scores/2024/jobs/1-score/%j.log"
    assert yaml.safe_load((first.folder / "config.yaml").read_text()) == {"x": 1}
    assert JobFolder(first.folder).read()["archive"] == "a"
    array = script.with_options(array="0-3%2")
    second = submit_job(array, next_job_folder(Path("scores/2024"), "sweep"), "sweep", site)
    assert words_after("output", second.text).endswith("2-sweep/%A_%a.log")
