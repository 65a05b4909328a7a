"""Reading, extending and overriding the ladder."""

from __future__ import annotations

import pytest

from triagekit.errors import ProblemsError, TriageError
from triagekit.files.resources import configs_folder
from triagekit.hardware.devices import GIGABYTE, parse_devices
from triagekit.hardware.ladder import Rung, load_ladder

SHIPPED = ("2xA100", "1xA100", "24GB", "16GB-T4", "8GB", "4GB", "cpu")


def test_the_shipped_ladder_goes_down_from_two_a100_to_the_cpu():
    ladder = load_ladder()
    assert ladder.names == SHIPPED
    assert [rung.method for rung in ladder.rungs] == ["lora"] * 4 + ["qlora"] * 2 + ["lora"]
    assert [rung.world for rung in ladder.rungs] == [2, 1, 1, 1, 1, 1, 1]
    assert ladder.rung("16GB-T4").precision == "fp16"
    assert ladder.rung("cpu").on_cpu and ladder.rung("cpu").precision == "fp32"
    assert ladder.rung("2xA100").minimum_capability == (8, 0)


def test_the_large_ladder_spreads_what_one_card_cannot_hold():
    ladder = load_ladder("large")
    assert ladder.names == ("2xA100", "2xA100-zero2", "2xA100-zero3", *SHIPPED[1:])


@pytest.mark.parametrize("name", ["ladder", "large"])
def test_launchers_are_shipped_files(name):
    for rung in load_ladder(name).rungs:
        assert rung.launcher == "none" or (configs_folder() / "accelerate" / f"{rung.launcher}.yaml").is_file()


@pytest.mark.parametrize(
    ("card", "rung"),
    [
        ("A100-40GB", "1xA100"),
        ("L4", "24GB"),
        ("A10", "24GB"),
        ("RTX-4090", "24GB"),
        ("T4", "16GB-T4"),
        ("V100-16GB", "16GB-T4"),
        ("RTX-4060", "8GB"),
        ("GTX-1650", "4GB"),
    ],
)
def test_cards_reach_the_rung_that_is_named_after_them(card, rung):
    (device,) = parse_devices(card)
    wanted = load_ladder().rung(rung)
    assert device.memory_bytes >= wanted.memory_gb * GIGABYTE
    assert device.capability >= wanted.minimum_capability


def test_overrides_change_remove_and_add():
    ladder = load_ladder(
        "ladder",
        {
            "rungs": {"24GB": {"micro_batch": 2}, "8GB": None},
            "add": [
                {"before": "24GB", "name": "1xL40S", "memory_gb": 44, "capability": 8.9},
                {"after": "cpu", "name": "last", "memory_gb": 1},
                {"name": "end", "memory_gb": 1},
            ],
        },
    )
    assert ladder.names == ("2xA100", "1xA100", "1xL40S", "24GB", "16GB-T4", "4GB", "cpu", "last", "end")
    assert ladder.rung("24GB").micro_batch == 2
    assert ladder.rung("24GB").gradient_checkpointing is True


def test_a_file_extends_the_shipped_ladder(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("rungs:\n  cpu: null\n  4GB: {max_length: 256}\n", encoding="utf-8")
    child = tmp_path / "child.yaml"
    child.write_text(f"extends: {path}\nrungs:\n  8GB: null\n", encoding="utf-8")
    ladder = load_ladder(str(child), {"rungs": {"16GB-T4": None}})
    assert ladder.names == ("2xA100", "1xA100", "24GB", "4GB")
    assert ladder.rung("4GB").max_length == 256


def test_a_written_ladder_reads_back_equal(tmp_path):
    from triagekit.settings import to_yaml

    path = tmp_path / "all.yaml"
    path.write_text(to_yaml(load_ladder()), encoding="utf-8")
    assert load_ladder(str(path)) == load_ladder()


def test_every_mistake_at_once_with_line_and_nearest_name(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "extends: ladder\n"
        "rungs:\n"
        "  2xA10: {micro_batch: 8}\n"
        "  24GB: {micro_bach: 8, memory_gb: none}\n"
        "add:\n"
        "  - {before: 8GBs, name: other}\n"
        "ladders: 3\n",
        encoding="utf-8",
    )
    with pytest.raises(ProblemsError) as error:
        load_ladder(str(path), {"rungs": {"CPU": None}})
    text = str(error.value)
    assert "mine.yaml:3 rungs.2xA10: no rung '2xA10' to change. Did you mean '2xA100'?" in text
    assert "mine.yaml:4 rungs.24GB.micro_bach: unknown key 'micro_bach'. Did you mean 'micro_batch'?" in text
    assert "mine.yaml:4 rungs.24GB.memory_gb" in text
    assert "mine.yaml:6 add.0: no rung '8GBs' to stand beside. Did you mean '8GB'?" in text
    assert "rung 'other' lacks 'memory_gb'" in text
    assert "unknown key 'ladders'" in text
    assert "rungs.CPU: no rung 'CPU' to change. Did you mean 'cpu'?" in text
    assert len(error.value.problems) == 7


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"name": "auto"}, "cannot be called 'auto'"),
        ({"name": "a b"}, "cannot be called 'a b'"),
        ({"count": 2}, "2 processes need `sharding`"),
        ({"count": 2, "sharding": "ddp"}, "`launcher`"),
        ({"sharding": "zero2"}, "more than one process"),
        ({"count": 0, "capability": 8.0}, "no CUDA capability"),
        ({"precision": "bf17"}, "precision"),
    ],
)
def test_rungs_that_make_no_sense(values, said, tmp_path):
    with pytest.raises(ProblemsError, match=said):
        load_ladder("ladder", {"add": [{"name": "new", "memory_gb": 4, **values}]})


def test_ladders_that_cannot_be(tmp_path):
    circle = tmp_path / "circle.yaml"
    circle.write_text(f"extends: {circle}\n", encoding="utf-8")
    with pytest.raises(ProblemsError, match="extends itself"):
        load_ladder(str(circle))
    with pytest.raises(ProblemsError, match="no rung left"):
        load_ladder("ladder", {"rungs": dict.fromkeys(SHIPPED)})
    with pytest.raises(ProblemsError, match="a second rung '4GB'"):
        load_ladder("ladder", {"add": [{"name": "4GB", "memory_gb": 4}]})
    with pytest.raises(ProblemsError, match="expected a ladder"):
        load_ladder("cards")
    with pytest.raises(TriageError, match="Did you mean 'ladder'"):
        load_ladder("lader")


def test_a_rung_that_is_not_there_names_the_nearest():
    with pytest.raises(ProblemsError, match=r"no rung '2xA10'\. Did you mean '2xA100'"):
        load_ladder().rung("2xA10")


def test_two_cpu_processes_are_a_rung():
    rung = Rung(name="pair", count=2, device="cpu", memory_gb=1, sharding="ddp", launcher="cpu_ddp", precision="fp32")
    assert rung.world == 2 and rung.on_cpu
