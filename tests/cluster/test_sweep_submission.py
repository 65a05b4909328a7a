"""What of a sweep is submitted: arrays with a cap, only what is open, several arrays where one would be too long."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from fake_slurm import words_after

from triagekit.cluster import sweep
from triagekit.cluster.job_folder import JobFolder
from triagekit.cluster.sites import load_site
from triagekit.cluster.slurm_commands import QueuedJob
from triagekit.cluster.sweep import array_numbers, read_member_list, split, submit_sweep
from triagekit.errors import ProblemsError, TriageError
from triagekit.sweep.settings import SweepSettings

SWEEP = SweepSettings.model_validate({"name": "s", "methods": ["lora", "hybrid"], "seeds": [1, 2, 3], "concurrency": 2})


def submit(settings=SWEEP, **more):
    return submit_sweep(settings, load_site("test"), rung="cpu", **more)


def test_all_members_are_one_array_with_the_cap(here):
    done = submit()
    (job,) = done.jobs
    assert job.job_id == "11"
    assert words_after("array", job.text) == "0-5%2"
    assert words_after("output", job.text).endswith("/%A_%a.log")
    listed = read_member_list(JobFolder(job.folder))
    assert [name for name, _ in listed] == [member.name for member in done.members]
    for number, (name, run) in enumerate(listed):
        config = job.folder / "members" / f"{name}.yaml"
        assert f"seed: {number % 3 + 1}" in config.read_text()
        assert str(config) in job.text and str(run) in job.text
        assert (run / "config.yaml").is_file(), "attempts are written there, so it must be a run by then"
    assert (Path("runs/s") / sweep.SETTINGS_FILE).is_file()


def test_the_cap_is_the_sites_where_the_sweep_has_none_and_never_above_the_members():
    site = load_site("test", ["max_array_tasks=3"])
    free = SWEEP.model_copy(update={"concurrency": None})
    assert words_after("array", submit_sweep(free, site, rung="cpu", dry_run=True).jobs[0].text) == "0-5%3"
    many = SWEEP.model_copy(update={"concurrency": 50})
    assert words_after("array", submit_sweep(many, site, rung="cpu", dry_run=True).jobs[0].text) == "0-5%6"


def test_again_submits_only_what_is_neither_finished_nor_in_the_queue(here):
    first = submit().jobs[0]
    Path("runs/s/lora-seed2/summary.json").write_text("{}")
    line = ["11", "11_[3-4%2]", "PENDING", "Resources", "cpu", "0:00", "1:00", "1", "(Resources)", "N/A", "me", "", "."]
    here.answers("squeue", ("\x1f".join([*line, str(first.script.absolute()), "s"]) + "\n", "", 0))
    again = submit()
    assert again.finished == ("lora-seed2",)
    assert again.under_way == ("hybrid-seed1", "hybrid-seed2")
    (job,) = again.jobs
    assert [name for name, _ in read_member_list(JobFolder(job.folder))] == ["lora-seed1", "lora-seed3", "hybrid-seed3"]
    assert words_after("array", job.text) == "0-2%2"
    # What is queued still reads the list and the settings it was submitted with.
    assert len(read_member_list(JobFolder(first.folder))) == 6


def test_nothing_left_to_submit_says_so(here):
    submit()
    for name in (member.name for member in sweep.members_of(SWEEP)):
        Path(f"runs/s/{name}/summary.json").write_text("{}")
    with pytest.raises(TriageError, match="6 of 6 members are finished"):
        submit()
    assert len(here.calls("sbatch")) == 1


def test_an_array_longer_than_the_cluster_allows_is_cut_and_the_cap_still_holds(here):
    here.answers("scontrol", ("MaxArraySize            = 4\n", "", 0))
    done = submit()
    assert [words_after("array", job.text) for job in done.jobs] == ["0-3%2", "0-1%2"]
    assert [job.dependency for job in done.jobs] == [None, "afterany:11"]
    assert [[member.name for member in chunk] for chunk in done.submitted] == [
        ["lora-seed1", "lora-seed2", "lora-seed3", "hybrid-seed1"],
        ["hybrid-seed2", "hybrid-seed3"],
    ]
    assert "--dependency=afterany:11" in here.calls("sbatch")[1]


def test_a_cluster_without_arrays_is_told():
    with pytest.raises(TriageError, match="MaxArraySize is 0"):
        split(sweep.members_of(SWEEP), 0)


def test_a_dry_run_writes_and_asks_nothing(here):
    done = submit(dry_run=True, max_array_size=4)
    assert [job.job_id for job in done.jobs] == [None, None]
    assert done.jobs[1].dependency == "afterany:<1-sweep>"
    assert "submitted with --dependency=afterany:<1-sweep>" in done.jobs[1].text
    assert not Path("runs").exists()
    assert not here.calls("sbatch") and not here.calls("scontrol") and not here.calls("squeue")


def test_a_run_of_the_same_name_with_other_settings_is_refused_before_submission(here):
    submit()
    with pytest.raises(ProblemsError, match=r"epochs"):
        submit(SWEEP.model_copy(update={"overrides": ["epochs=9"]}))
    assert len(here.calls("sbatch")) == 1


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("12", []), ("12_3", [3]), ("12_[4-6,9%2]", [4, 5, 6, 9]), ("12_[0-8:4]", [0, 4, 8]), ("12_[7]", [7])],
)
def test_numbers_of_an_array_in_the_queue(text, numbers):
    job = QueuedJob(*[""] * 15)
    assert array_numbers(replace(job, job_id=text)) == numbers


def test_the_card_names_rung_and_what_was_passed_over(here):
    job = submit(passed_over=["2xA100: partition gpuA is down"]).jobs[0]
    card = json.loads((job.folder / "job.json").read_text())
    assert (card["job_id"], card["kind"], card["rung"]) == ("11", "sweep", "cpu")
    assert card["passed_over"] == ["2xA100: partition gpuA is down"]
