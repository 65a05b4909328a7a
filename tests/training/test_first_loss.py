"""The loss before the first step tells a sound base from one whose weights or tokenizer are another's."""

from __future__ import annotations

import json
import math
import random
import shutil

import pytest
import torch
from training_helpers import SCHEMA, rows

from triagekit.cli.main import main
from triagekit.data.rows import Row
from triagekit.modeling.base import is_own_base, load_base, load_tokenizer
from triagekit.modeling.segments import SegmentTokenizer
from triagekit.modeling.settings import PromptSettings
from triagekit.modeling.template import PromptTemplate
from triagekit.training.collator import PaddingCollator
from triagekit.training.dry_run import dry_run
from triagekit.training.examples import build_examples
from triagekit.training.loss import compute_losses_in_forward, give_back_forward, token_losses
from triagekit.training.ranks import Ranks


@pytest.fixture(scope="module")
def pretrained(tiny_model_folder, tmp_path_factory):
    """A base that has seen records before: the tiny model after a few steps on other tickets."""
    folder = tmp_path_factory.mktemp("pretrained") / "base"
    tokenizer = load_tokenizer(str(tiny_model_folder))
    segments = SegmentTokenizer(tokenizer, PromptTemplate(tokenizer, SCHEMA, PromptSettings(strategy="implicit")))
    tickets = [Row.from_json(row) for row in rows(16, 9)]
    built = build_examples(tickets, segments, split="train", variants=[number % 3 for number in range(16)])
    batch = PaddingCollator(0)([{name: column[row] for name, column in built.columns.items()} for row in range(16)])
    model = load_base(str(tiny_model_folder), "fp32", device="cpu")
    model.requires_grad_(True)
    compute_losses_in_forward(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(12):
        token_losses(model, batch).negative_log_likelihood.mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    give_back_forward(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def seen(settings):
    """(the first loss, the signs in it) as a dry run has them."""
    plan = dry_run(settings, Ranks(), None, print).plan
    signs = [sign for sign in plan["warnings"] if sign["found"].startswith("The loss of the first batch")]
    return plan["first_loss"], signs


@pytest.mark.parametrize("method", ["lora", "hybrid", "full"])
def test_a_sound_base_gives_no_sign(pretrained, settings_for, method):
    first, signs = seen(settings_for(base=str(pretrained), adapter={"method": method}))
    assert signs == [] and 0.1 < first["loss"] < first["usual_below"] == first["ln_vocabulary"] - 1


def test_weights_that_were_not_loaded_are_told_of(pretrained, settings_for, tmp_path):
    from transformers import AutoConfig, AutoModelForCausalLM

    broken = tmp_path / "broken"
    shutil.copytree(pretrained, broken)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(broken)).save_pretrained(broken)
    first, (sign,) = seen(settings_for(base=str(broken)))
    assert abs(first["loss"] - first["ln_vocabulary"]) < 0.5
    assert "random weights" in sign["advice"] and "pretrained base" in sign["usual"]


def test_a_tokenizer_of_another_base_is_told_of(pretrained, settings_for, tmp_path):
    """The same tokens, numbered otherwise."""
    broken = tmp_path / "broken"
    shutil.copytree(pretrained, broken)
    path = broken / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    special = {token["content"] for token in content["added_tokens"]}
    names = [name for name in content["model"]["vocab"] if name not in special]
    numbers = [content["model"]["vocab"][name] for name in names]
    random.Random(0).shuffle(numbers)
    content["model"]["vocab"].update(zip(names, numbers, strict=True))
    path.write_text(json.dumps(content), encoding="utf-8")
    first, (sign,) = seen(settings_for(base=str(broken)))
    assert first["loss"] > first["usual_below"] and "base and tokenizer belong together" in sign["advice"]


def test_a_random_base_as_of_the_tests_is_one_that_knows_nothing(tiny_model_folder, settings_for):
    first, signs = seen(settings_for())
    assert len(signs) == 1 and abs(first["loss"] - first["ln_vocabulary"]) < 0.5
    assert not is_own_base(str(tiny_model_folder))


def test_of_the_embedded_base_more_is_usual(settings_for, tmp_path):
    """It is sure of labels that it has learnt by heart, and wrong."""
    for words in (
        ["generate", "--rows", "300", "--seed", "7", "--out", str(tmp_path / "raw.jsonl")],
        ["prepare", "it_tickets", "--source", str(tmp_path / "raw.jsonl"), "--out", str(tmp_path / "data")],
    ):
        assert main(["data", *words]) == 0
    assert is_own_base("embedded")
    prompt = {"strategy": "implicit", "max_length": 512}
    first, signs = seen(settings_for(base="embedded", data=str(tmp_path / "data"), prompt=prompt))
    assert signs == [] and first["usual_below"] == math.log(6144) + 1
    assert math.log(6144) - 1 < first["loss"] < first["usual_below"]
