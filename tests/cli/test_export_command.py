"""`triage export` from the command line: help, refusals, and one export of each kind of a run on the embedded base."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from triagekit.cli.main import main


@pytest.mark.parametrize("action", ["merge", "adapter", "tarball", "gguf", "push"])
def test_help_ends_with_an_example(action, capsys):
    with pytest.raises(SystemExit):
        main(["export", action, "--help"])
    assert f"Example: triage export {action} runs/lora-seed1" in capsys.readouterr().out


def test_an_unknown_run_is_answered_with_the_nearest(tmp_path, capsys):
    (tmp_path / "lora-seed1").mkdir()
    (tmp_path / "lora-seed1" / "config.yaml").write_text("name: lora-seed1\n")
    assert main(["export", "tarball", str(tmp_path / "lora-sed1"), "--out", str(tmp_path / "x.tar.gz")]) == 2
    assert "Did you mean 'lora-seed1'?" in capsys.readouterr().err
    assert main(["export", "tarball", str(tmp_path / "lora-seed1"), "--out", str(tmp_path / "x.tar.gz")]) == 2
    assert "has no adapter yet" in capsys.readouterr().err


def test_help_needs_no_torch():
    script = (
        "import sys\nfrom triagekit.cli.main import main\n"
        "try:\n    main(['export', 'gguf', '--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'numpy', 'transformers', 'gguf', 'huggingface_hub'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def embedded_run(tmp_path_factory):
    from triagekit.data.rows import Row
    from triagekit.modeling.adapter_folder import save_adapter
    from triagekit.modeling.adapters import attach_adapter
    from triagekit.modeling.base import load_base, load_tokenizer
    from triagekit.modeling.segments import SegmentTokenizer
    from triagekit.modeling.settings import AdapterSettings, PromptSettings
    from triagekit.modeling.template import PromptTemplate
    from triagekit.schema.load import load_schema

    row = Row("1", "printer is dead", {}, {})
    run = tmp_path_factory.mktemp("runs") / "lora-seed1"
    run.mkdir()
    (run / "config.yaml").write_text("name: lora-seed1\nbase: embedded\ndata: data/none\nseed: 1\n")
    tokenizer = load_tokenizer("embedded")
    schema = load_schema("it_tickets")
    segments = SegmentTokenizer(tokenizer, PromptTemplate(tokenizer, schema, PromptSettings(strategy="implicit")))
    settings = AdapterSettings(r=2, alpha=4, targets=["q_proj"])
    model, report = attach_adapter(load_base("embedded", "fp32", device="cpu"), settings)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(0, 0.05)
    save_adapter(model, run / "adapter", settings, segments, "embedded", report, "0" * 16, [row.text])
    return run


def said(capsys):
    return json.loads(capsys.readouterr().out)


def test_one_export_of_each_kind(embedded_run, tmp_path, capsys):
    run = str(embedded_run)
    assert main(["export", "merge", run, "--out", str(tmp_path / "merged"), "--json"]) == 0
    merged = said(capsys)
    # The base's own type, and the missing data said aloud.
    assert merged["dtype"] == "fp16" and "Not compared on tickets" in merged["warnings"][0]
    assert main(["export", "adapter", run, "--out", str(tmp_path / "adapter"), "--json"]) == 0
    assert said(capsys)["check"]["max_logit"] < 1e-3
    assert main(["export", "tarball", run, "--out", str(tmp_path / "run.tar.gz"), "--json"]) == 0
    assert "lora-seed1/tokenizer/tokenizer.json" in said(capsys)["files"]
    gguf = ["export", "gguf", str(tmp_path / "merged"), "--out", str(tmp_path / "m.gguf"), "--type", "q8_0", "--json"]
    assert main(gguf) == 0
    record = said(capsys)
    assert record["pre_tokenizer"] == "qwen2" and record["adapter_fingerprint"] == merged["adapter_fingerprint"]
    assert main(["export", "push", run, "--repo", "a/b", "--json"]) == 0
    assert said(capsys)["uploaded"] is False


def test_the_tables_for_people(embedded_run, tmp_path, capsys):
    assert main(["export", "adapter", str(embedded_run), "--out", str(tmp_path / "adapter")]) == 0
    assert "opened by PEFT alone" in capsys.readouterr().out
    assert main(["export", "merge", str(embedded_run), "--out", str(tmp_path / "merged"), "--dtype", "bf16"]) == 0
    shown = capsys.readouterr().out
    assert "weights in bf16" in shown and "warning: Not compared on tickets" in shown
