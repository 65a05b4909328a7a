"""The recipe of the embedded base, at toy size; and the base that ships."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from triagekit.cli.main import main
from triagekit.data.generator import generate_tickets
from triagekit.errors import ProblemsError
from triagekit.files.resources import find_config
from triagekit.modeling.base import EMBEDDED, load_base, load_tokenizer, resolve_base
from triagekit.modeling.base_build.build import build_base
from triagekit.modeling.base_build.check import FILES, MOST_BYTES, check_base
from triagekit.modeling.base_build.packing import pack
from triagekit.modeling.base_build.pretraining import CHECKPOINT, learning_rate
from triagekit.modeling.base_build.settings import ScheduleSettings, TinyBaseSettings
from triagekit.modeling.base_build.stream import PretrainingStream
from triagekit.modeling.base_build.taxonomies import make_taxonomy
from triagekit.progress import SilentProgress
from triagekit.schema import canonical_json, load_schema, validate_record
from triagekit.schema.parse import parse_record
from triagekit.settings import load_settings

TOY = [
    "threads=1",
    "tokenizer={vocabulary: 700, tickets: 150, taxonomies: 5}",
    "architecture={hidden: 32, layers: 1, heads: 2, key_value_heads: 1, intermediate: 48, positions: 2048}",
    "stages=[{taxonomies: 6, groups: 2, rows: 2}, {from_step: 2, numbered: true, taxonomies: 3, groups: 1, rows: 2}]",
    "schedule={steps: 3, rate_points: [[0, 0.5], [3, 1.0]], log_every: 3, evaluate_every: 2, checkpoint_every: 2}",
    "evaluation_groups=1",
    "generated_records=1",
]


@pytest.fixture(scope="module")
def settings() -> TinyBaseSettings:
    return load_settings(TinyBaseSettings, find_config("train", "tiny_base"), TOY)


@pytest.fixture(scope="module")
def built(settings, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("base") / "first"
    build_base(settings, out)
    return out


class _StopsAt(SilentProgress):
    def __init__(self, step: int) -> None:
        self.left = step

    def advance(self, count: int = 1, **figures: object) -> None:
        self.left -= count
        if self.left == 0:
            raise KeyboardInterrupt


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def _equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def _curve(recipe: dict[str, Any]) -> list[tuple[int, float]]:
    return [(point["step"], point["record_loss"]) for point in recipe["curve"]]


def test_the_recipe_gives_the_same_weights_twice(settings, built, tmp_path):
    build_base(settings, tmp_path / "second")
    assert _equal(_weights(built), _weights(tmp_path / "second"))
    assert (built / "tokenizer.json").read_bytes() == (tmp_path / "second" / "tokenizer.json").read_bytes()
    other = settings.model_copy(update={"seed": settings.seed + 1})
    build_base(other, tmp_path / "third")
    assert not _equal(_weights(built), _weights(tmp_path / "third"))


def test_an_interrupted_build_goes_on_to_the_same_weights(settings, built, tmp_path):
    out = tmp_path / "base"
    with pytest.raises(KeyboardInterrupt):
        build_base(settings, out, _StopsAt(3))
    assert (tmp_path / "base.work" / CHECKPOINT).is_file()
    assert not out.exists()
    recipe = build_base(settings, out)
    assert _equal(_weights(built), _weights(out))
    # The kill fell between two lines of the log; the line after it still covers all of its steps.
    assert _curve(recipe) == _curve(json.loads((built / "recipe.json").read_text()))
    assert not (tmp_path / "base.work").exists()


def test_a_checkpoint_of_another_recipe_is_not_continued(settings, tmp_path):
    out = tmp_path / "base"
    with pytest.raises(KeyboardInterrupt):
        build_base(settings, out, _StopsAt(3))
    other = settings.model_copy(update={"seed": 99})
    whole = build_base(other, tmp_path / "whole")
    assert _curve(build_base(other, out)) == _curve(whole)


def test_the_folder_passes_its_check_and_damage_does_not(built, tmp_path):
    facts = check_base(built)
    assert facts["parameters"] == sum(weight.numel() for weight in load_base(str(built)).parameters())
    broken = tmp_path / "broken"
    shutil.copytree(built, broken)
    for name in ("recipe.json", "tokenizer.json"):
        (broken / name).unlink()
    with pytest.raises(ProblemsError) as caught:
        check_base(broken)
    assert len(caught.value.problems) == 2
    large = tmp_path / "large"
    shutil.copytree(built, large)
    (large / "more.bin").write_bytes(b"0" * MOST_BYTES)
    with pytest.raises(ProblemsError, match="may be shipped"):
        check_base(large)


def test_packed_rows_see_the_prefix_and_themselves_only(settings, built):
    tokenizer = load_tokenizer(str(built))
    model = load_base(str(built), precision="fp32", device="cpu")
    for group in PretrainingStream(tokenizer, settings).step(0):
        batch = pack([group], text_weight=0.25)
        with torch.no_grad():
            packed = model.model(
                input_ids=batch.input_ids,
                attention_mask=batch.attention,
                position_ids=batch.position_ids,
                use_cache=False,
            ).last_hidden_state[0]
            start = group.prefix_length
            for example in group.examples:
                alone = model.model(input_ids=torch.tensor([example.input_ids]), use_cache=False).last_hidden_state[0]
                own = alone[group.prefix_length :]
                torch.testing.assert_close(packed[start : start + len(own)], own, rtol=1e-4, atol=1e-5)
                start += len(own)


def test_loss_stands_on_records_and_tickets_not_on_prompts(settings, built):
    tokenizer = load_tokenizer(str(built))
    for group in PretrainingStream(tokenizer, settings).step(1):
        batch = pack([group], text_weight=0.25)
        answers = tokenizer.decode(batch.targets[batch.record]).split("<|im_end|>")
        assert [parse_record(group.segments.schema, answer).verdict for answer in answers[:-1]] == ["auto"] * len(
            group.examples
        )
        assert answers[-1] == ""
        text = tokenizer.decode(batch.targets[(batch.weights > 0) & ~batch.record])
        assert "<|im_start|>" not in text
        assert text[-8:] in group.texts[-1]
        assert set(batch.weights[~batch.record].unique().tolist()) == {0.0, 0.25}


def test_made_up_taxonomies_are_valid_and_not_the_demo():
    demo = load_schema("it_tickets")
    tickets = list(generate_tickets(30, seed=3, families="train"))
    demo_values = {field.name: set(field.values) for field in demo.label_fields}
    names = set()
    for number in range(120):
        taxonomy = make_taxonomy(20, number)
        assert make_taxonomy(20, number) == taxonomy
        names.add(taxonomy.schema.fingerprint)
        for field in taxonomy.schema.label_fields:
            for name in ("category", "subcategory", "assignment_group", "request_type"):
                assert not set(field.values) & (demo_values[name] - {"Other"})
            assert set(field.values) != demo_values["priority"]
        for ticket in tickets:
            record = taxonomy.record(ticket)
            assert validate_record(taxonomy.schema, record) == []
            assert canonical_json(taxonomy.schema, record)
    assert len(names) > 100


def test_any_text_survives_the_tokenizer_and_digits_stand_alone():
    tokenizer = load_tokenizer(EMBEDDED)
    for text in ("Привет, メール 😀\r\n\tñ", "x" * 500, '{"a":"b"}', "\u202eabc\u0000"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
    assert tokenizer.tokenize("2048")[-4:] == ["2", "0", "4", "8"]
    turn = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert turn == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.eos_token == "<|im_end|>"


def test_learning_rate_warms_up_stays_and_falls():
    points = ((0, 0.1), (9, 1.0), (70, 1.0), (100, 0.0))
    schedule = ScheduleSettings(steps=100, learning_rate=2.0, rate_points=points)
    rates = [learning_rate(step, schedule) for step in range(120)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[1] == pytest.approx(0.4)
    assert set(rates[9:71]) == {2.0}
    assert all(later < earlier for earlier, later in pairwise(rates[70:101]))
    assert rates[99] == pytest.approx(2 / 30)
    assert set(rates[100:]) == {0.0}


def test_stages_follow_each_other_and_disorder_is_refused(settings):
    assert [settings.stage_of(step).numbered for step in range(4)] == [False, False, True, True]
    with pytest.raises(ProblemsError, match="expected 0 first"):
        load_settings(TinyBaseSettings, find_config("train", "tiny_base"), ["stages=[{from_step: 5}]"])
    with pytest.raises(ProblemsError, match="rate_points"):
        load_settings(TinyBaseSettings, find_config("train", "tiny_base"), ["schedule.rate_points=[[5, 1], [2, 0]]"])


def test_the_shipped_base_is_sound_and_small(capsys):
    folder = Path(resolve_base(EMBEDDED))
    assert {path.name for path in folder.iterdir()} >= set(FILES)
    assert main(["base", "check", "--json"]) == 0
    assert '"parameters": 4591360' in capsys.readouterr().out


def test_build_command_takes_overrides(tmp_path, capsys):
    out = tmp_path / "toy"
    assert main(["base", "build", "tiny_base", *TOY, "schedule.steps=1", "--out", str(out)]) == 0
    assert (out / "model.safetensors").is_file()
    assert main(["base", "check", "--folder", str(out)]) == 0
    assert "parameters" in capsys.readouterr().out
