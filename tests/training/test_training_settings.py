"""Settings: presets load, mistakes are named with what is nearest, and nothing heavy is imported for it."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest
from pydantic import ValidationError

from triagekit.errors import ProblemsError
from triagekit.files.resources import shipped_names
from triagekit.settings import to_yaml
from triagekit.training.settings import BatchSettings, TrainSettings
from triagekit.training.train import load_train_settings

PRESETS = [name for name in shipped_names("train") if name != "tiny_base"]


def test_the_promised_presets_ship():
    promised = {"lora", "lora_plus", "hybrid", "full", "prior_k_4gb", "prior_k_instruct", "prior_w_3b", "prior_e_lora"}
    assert promised | {"prior_e_hybrid"} <= set(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_loads_and_survives_its_own_yaml(name, tmp_path):
    settings = load_train_settings(name, [])
    path = tmp_path / "again.yaml"
    path.write_text(to_yaml(settings), encoding="utf-8")
    assert load_train_settings(str(path), []) == settings
    assert settings.run_name == f"{name}-seed{settings.seed}"


@pytest.mark.parametrize("name", [name for name in PRESETS if not name.startswith("prior_")])
def test_our_own_presets_follow_our_own_advice(name):
    settings = load_train_settings(name, [])
    assert settings.optimizer.warmup_share <= 0.05
    assert settings.batch.effective <= 32
    assert settings.adapter.targets == "all-linear"


def test_lora_and_hybrid_differ_in_the_method_only():
    lora, hybrid = (load_train_settings(name, ["name=x"]).model_dump() for name in ("lora", "hybrid"))
    assert {key for key in lora if lora[key] != hybrid[key]} == {"adapter"}
    assert {key for key in lora["adapter"] if lora["adapter"][key] != hybrid["adapter"][key]} == {"method"}


def test_lora_plus_is_lora_with_two_learning_rates():
    lora, plus = (load_train_settings(name, ["name=x"]) for name in ("lora", "lora_plus"))
    assert plus.adapter == lora.adapter.model_copy(update={"lora_plus_ratio": 16})
    rate = {"learning_rate": plus.optimizer.learning_rate}
    assert plus.optimizer == lora.optimizer.model_copy(update=rate)
    assert plus.model_copy(update={"adapter": lora.adapter, "optimizer": lora.optimizer}) == lora


def test_the_effective_batch_must_be_a_multiple_and_the_error_says_what_is_near():
    with pytest.raises(ValidationError, match=r"micro 5 or 10, or effective 18 or 24"):
        BatchSettings(effective=20, micro=6)
    with pytest.raises(ValidationError, match=r"micro 8, or effective 12"):
        BatchSettings(effective=8, micro=12)
    assert BatchSettings(effective=24, micro=6).accumulation == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampling": {"strategy": "balanced"}}, "needs `field`"),
        ({"class_weights": {"category": {"Hardware": -1}}}, "positive"),
        ({"name": "a/b"}, "folder name"),
        ({"optimizer": {"warmup_share": 1.5}}, "less than 1"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        TrainSettings.model_validate({"data": "d", **changes})


def test_every_mistake_of_a_file_comes_at_once_with_line_and_nearest_key(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("data: d\nepoch: 3\noptimizer:\n  learnig_rate: 1e-3\nbatch: {effective: 20, micro: 6}\n")
    with pytest.raises(ProblemsError) as caught:
        load_train_settings(str(path), ["adapter.rank=8"])
    text = str(caught.value)
    assert "mine.yaml:2" in text and "'epochs'" in text
    assert "mine.yaml:4" in text and "'learning_rate'" in text
    assert "multiple of micro" in text and "unknown key 'rank'" in text


def test_a_typo_is_answered_fast_and_without_torch():
    script = (
        "import sys\nfrom triagekit.cli.main import main\n"
        "code = main(['train', 'lora', 'optimizer.learning_rat=1'])\n"
        "heavy = [n for n in ('torch', 'transformers', 'trl', 'numpy', 'pyarrow', 'rich.progress') if n in sys.modules]\n"
        "assert code == 2 and not heavy, (code, heavy)\n"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert "Did you mean 'learning_rate'?" in done.stderr
    # Half a second on a machine of its own. Processor time, since the clock tells how busy this one is; and twice as
    # much, since busy neighbours slow each instruction down.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0
