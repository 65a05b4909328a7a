"""Planning a run: every rung judged, the best that passes chosen, reasons for the others."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from triagekit.errors import ProblemsError
from triagekit.hardware.devices import cpu_device, parse_devices
from triagekit.hardware.ladder import load_ladder
from triagekit.launching.plan import plan_run
from triagekit.training.settings import TrainSettings

BASE = "Qwen/Qwen2.5-1.5B"


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def settings(**changes):
    batch = {"effective": 16, "micro": 8, **changes.pop("batch", {})}
    return TrainSettings.model_validate({"data": "d", "base": BASE, "batch": batch, **changes})


def chosen(assessment):
    return assessment.chosen.rung.name if assessment.chosen else None


@pytest.mark.parametrize(
    ("devices", "rung"),
    [
        ("2xA100-80GB", "2xA100"),
        ("2xH100", "2xA100"),
        ("A100", "1xA100"),
        ("RTX-4090", "24GB"),
        ("T4", "16GB-T4"),
        ("2xT4", "16GB-T4"),
        ("8GB", "8GB"),
        ("GTX-1650", "4GB"),
        ("cpu", "cpu"),
        ("T4,A100-80GB", "1xA100"),
    ],
)
def test_the_best_rung_that_the_devices_serve(devices, rung):
    assert chosen(plan_run(settings(), parse_devices(devices))) == rung


def test_reasons_of_the_rungs_above():
    plan = plan_run(settings(), parse_devices("1xL4"))
    assert chosen(plan) == "24GB"
    assert plan.passed_over_lines == (
        "2xA100: needs 2 GPUs, there is 1 GPU; needs 40 GB, L4 has 24.2",
        "1xA100: needs 40 GB, L4 has 24.2",
    )
    assert [rung.name for rung in plan.lower] == ["16GB-T4", "8GB", "4GB", "cpu"]


def test_the_weakest_of_the_cards_counts():
    plan = plan_run(settings(), parse_devices("A100-80GB,A100-40GB"))
    assert chosen(plan) == "2xA100" and plan.chosen.memory_bytes == 40960 * 2**20


def test_two_old_cards_lack_capability_not_number():
    plan = plan_run(
        settings(), parse_devices("2xV100-32GB"), load_ladder("ladder", {"rungs": {"2xA100": {"memory_gb": 30}}})
    )
    assert plan.rows[0].reasons == ("needs capability 8.0, V100-32GB has 7.0",)


def test_a_run_that_does_not_fit_goes_down_in_rows_before_it_goes_down_in_rungs():
    large = settings(base="Qwen/Qwen2.5-7B", prompt={"max_length": 2048})
    plan = plan_run(large, parse_devices("A100"))
    row = plan.chosen
    assert row.rung.name == "1xA100" and row.rung.micro_batch == row.micro < 16
    assert row.micro * row.accumulation == 16
    assert row.notes[0] == f"{row.micro} rows at once instead of 16: more does not fit"
    assert row.estimate.peak <= 0.95 * row.memory_bytes
    small = plan_run(large, None).rows[plan_names(plan).index("4GB")]
    assert not small.fits and "GiB, 95% of the device is" in small.reasons[0]


def plan_names(plan):
    return [row.rung.name for row in plan.rows]


@pytest.mark.parametrize("effective", [1, 6, 16, 30])
def test_the_effective_batch_is_the_same_on_each_rung(effective):
    plan = plan_run(settings(batch={"effective": effective, "micro": 1}), None)
    for row in plan.rows:
        if row.micro is None:
            assert effective % row.rung.world and "cannot share batch.effective" in row.reasons[0]
        else:
            assert row.micro * row.accumulation * row.rung.world == effective
    assert chosen(plan) == ("2xA100" if effective % 2 == 0 else "1xA100")


def test_a_micro_batch_that_does_not_divide_is_said():
    plan = plan_run(settings(batch={"effective": 12, "micro": 12}), parse_devices("RTX-4090"))
    assert plan.chosen.micro == 6
    assert plan.chosen.notes == ("6 rows at once instead of 8, which does not divide 12",)


def test_shorter_tickets_are_said():
    plan = plan_run(settings(prompt={"max_length": 700}), parse_devices("4GB"))
    assert plan.chosen.notes == ("tickets are cut so that a row has 512 tokens instead of 700",)


def test_forbidden_pairs_pass_a_rung_over():
    plan = plan_run(settings(base="Qwen/Qwen2.5-0.5B", adapter={"method": "full"}), None)
    small = plan.rows[plan_names(plan).index("8GB")]
    assert any("adapter.method: full: cannot train a base in 4 bits" in reason for reason in small.reasons)
    half = plan_run(settings(precision="bf16"), parse_devices("T4"))
    assert not half.rows[plan_names(half).index("16GB-T4")].fits


def test_a_setting_that_keeps_a_run_off_its_card_does_not_send_it_to_the_cpu():
    own = settings(precision="bf16", quantization={"bits": 4})
    plan = plan_run(own, (*parse_devices("T4"), cpu_device()))
    assert plan.chosen is None
    with pytest.raises(ProblemsError, match="a GPU is here: change the setting that rung 16GB-T4 refuses"):
        plan.required()
    assert chosen(plan_run(own, (*parse_devices("T4"), cpu_device()), wanted="cpu")) == "cpu"
    assert chosen(plan_run(own, parse_devices("cpu"))) == "cpu"


def test_zero3_is_for_bases_that_do_not_fit_one_card():
    add = {"add": [{"before": "2xA100", "name": "spread", "count": 2, "memory_gb": 40, "capability": 8.0,
                    "launcher": "2gpu_zero3", "sharding": "zero3"}]}  # fmt: skip
    ladder = load_ladder("ladder", add)
    cards = parse_devices("2xA100")
    assert "ZeRO-3 is for bases that one device cannot hold" in plan_run(settings(), cards, ladder).rows[0].reasons[0]
    named = plan_run(settings(), cards, ladder, wanted="spread")
    assert chosen(named) == "spread" and any("ZeRO-3" in note for note in named.chosen.notes)


def test_a_named_rung_is_taken_or_refused_with_reasons():
    plan = plan_run(settings(hardware={"rung": "8GB"}), parse_devices("2xA100"))
    assert chosen(plan) == "8GB"
    assert plan.passed_over_lines[0] == "2xA100: 8GB was asked for"
    refused = plan_run(settings(hardware={"rung": "2xA100"}), parse_devices("T4"))
    assert refused.chosen is None
    with pytest.raises(ProblemsError, match=r"Rung 2xA100 cannot be taken:\n.*needs 2 GPUs, there is 1 GPU"):
        refused.required()
    with pytest.raises(ProblemsError, match="Did you mean '2xA100'"):
        plan_run(settings(hardware={"rung": "2xA10"}), None)
    assert plan_run(settings(hardware={"rung": "none"}), None).chosen is None


def test_a_named_rung_is_tried_although_the_estimate_is_too_high():
    plan = plan_run(settings(base="Qwen/Qwen2.5-7B"), parse_devices("4GB"), wanted="4GB")
    assert chosen(plan) == "4GB" and any("by the estimate it does not fit" in note for note in plan.chosen.notes)
    auto = plan_run(settings(base="Qwen/Qwen2.5-7B"), parse_devices("4GB"))
    assert chosen(auto) == "cpu" or auto.chosen is None


def test_nothing_fits_is_said_for_every_rung():
    plan = plan_run(
        settings(base="Qwen/Qwen2.5-14B"), parse_devices("4GB"), load_ladder("ladder", {"rungs": {"cpu": None}})
    )
    with pytest.raises(ProblemsError) as error:
        plan.required()
    assert len(error.value.problems) == 6


def test_a_site_serves_some_rungs_only():
    plan = plan_run(settings(), None, served={"16GB-T4": "gpuS", "cpu": "cpu"})
    assert chosen(plan) == "16GB-T4"
    assert plan.passed_over_lines[0] == "2xA100: not served by this site"


def test_a_base_that_cannot_be_counted_goes_by_order(tmp_path):
    (tmp_path / "gpt").mkdir()
    (tmp_path / "gpt" / "config.json").write_text('{"model_type": "gpt2"}', encoding="utf-8")
    plan = plan_run(settings(base=str(tmp_path / "gpt")), parse_devices("T4"))
    assert chosen(plan) == "16GB-T4" and plan.chosen.estimate is None
    assert "cannot be estimated" in plan.notes[0] and "memory not estimated" in plan.chosen.notes
    json.dumps(plan.as_dict())


def data_set(folder, rows=640):
    folder.mkdir()
    manifest = {"name": "d", "schema": "it_tickets", "schema_fingerprint": "x", "fingerprint": "y", "files": {},
                "counts": {"train": rows, "val": 80}}  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return str(folder)


def finished_run(folder, **changes):
    folder.mkdir(parents=True)
    summary = {"status": "finished", "base": BASE, "method": "lora", "rows_per_second": 8.0,
               "hardware": {"processor": cpu_device().name, "accelerators": [{"name": "NVIDIA A100-SXM4-80GB"}]}}  # fmt: skip
    (folder / "summary.json").write_text(json.dumps({**summary, **changes}), encoding="utf-8")
    (folder / "plan.json").write_text(json.dumps({"world": 1}), encoding="utf-8")
    (folder / "config.yaml").write_text("prompt: {max_length: 512}\n", encoding="utf-8")


def test_steps_and_time_come_from_the_data_and_a_finished_run(tmp_path):
    own = settings(data=data_set(tmp_path / "data"), epochs=3, output=str(tmp_path / "runs"))
    cards = parse_devices("A100-80GB")
    unknown = plan_run(own, cards)
    assert (unknown.steps, unknown.train_rows) == (120, 640) and unknown.chosen.seconds is None
    finished_run(tmp_path / "runs" / "before")
    assert plan_run(own, cards).chosen.seconds == pytest.approx(120 * 16 / 8.0)
    assert plan_run(own.model_copy(update={"max_train_rows": 160}), cards).steps == 30


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "hybrid"},
        {"base": "embedded"},
        {"status": "running"},
        {"hardware": {"processor": "x", "accelerators": [{"name": "Tesla T4"}]}},
        {"rows_per_second": None},
        {"hardware": {}},
    ],
)
def test_a_rate_of_something_else_tells_nothing(tmp_path, changes):
    own = settings(data=data_set(tmp_path / "data"), output=str(tmp_path / "runs"))
    finished_run(tmp_path / "runs" / "before", **changes)
    assert plan_run(own, parse_devices("A100-80GB")).chosen.seconds is None


def test_a_rate_of_one_card_tells_nothing_of_two(tmp_path):
    own = settings(data=data_set(tmp_path / "data"), output=str(tmp_path / "runs"))
    finished_run(tmp_path / "runs" / "before")
    assert plan_run(own, parse_devices("2xA100-80GB")).chosen.seconds is None


def triage(*words, cwd):
    """`triage` as it runs where neither torch nor transformers is installed."""
    script = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'numpy', 'ray', 'submitit', 'deepspeed', 'pandas'):\n"
        "    sys.modules[name] = None\n"
        "from triagekit.cli.main import main\n"
        f"sys.exit(main({list(words)!r}))\n"
    )
    environment = {**os.environ, "HF_HOME": str(cwd / "home")}
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, cwd=cwd, env=environment
    )


def test_the_command_needs_no_torch(tmp_path):
    done = triage("plan", "qwen2.5-1.5b_lora", "--gpus", "T4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for word in (
        "2xA100",
        "16GB-T4 ◀",
        "base weights",
        "activations",
        "while loading",
        "batch of 16",
        "4×4×1",
        "unknown",
    ):
        assert word in done.stdout
    assert "Chosen: 16GB-T4" in done.stdout and "needs 2 GPUs, there is 1 GPU" in done.stdout


def test_the_command_prints_json_and_says_when_nothing_fits(tmp_path):
    ladder = tmp_path / "small.yaml"
    ladder.write_text("rungs:\n  - {name: tiny, memory_gb: 2, method: qlora, precision: fp16}\n", encoding="utf-8")
    words = ["plan", "qwen2.5-1.5b_lora", "base=Qwen/Qwen2.5-7B", "--ladder", str(ladder), "--json"]
    done = triage(*words, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    told = json.loads(done.stdout)
    (row,) = told["rungs"]
    assert told["chosen"] is None and not row["fits"]
    parts = row["estimate"]
    assert parts["steady"] == sum(
        parts[name] for name in ("context", "weights", "quantisation", "adapter", "gradients", "optimizer")
    )
    here = triage("plan", "lora", "--here", "--json", cwd=tmp_path)
    assert here.returncode == 0, here.stderr


def test_mistakes_of_the_command_exit_with_2(tmp_path):
    done = triage("plan", "lora", "--gpus", "A1000", cwd=tmp_path)
    assert done.returncode == 2 and "Did you mean" in done.stderr
