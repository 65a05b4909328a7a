"""Rows of several schemas in one packed batch: each behind its own prompt, the loss and gradients of the padded batch."""

from __future__ import annotations

import random

import pytest
import torch
from modeling_helpers import FAMILIES, random_model

from triagekit.data.rows import Row
from triagekit.modeling.adapters import attach_adapter
from triagekit.modeling.base import load_tokenizer
from triagekit.modeling.segments import SegmentTokenizer
from triagekit.modeling.settings import AdapterSettings, PromptSettings
from triagekit.modeling.shared_prefix.attention import shared_prefix_attention_of
from triagekit.modeling.template import PromptTemplate
from triagekit.schema import DependentEnumField, TextField, allowed_values, load_schema
from triagekit.training.collator import IGNORED, PaddingCollator, padded_tokens, row_count, token_count
from triagekit.training.examples import build_examples
from triagekit.training.loss import compute_losses_in_forward, normaliser, token_losses
from triagekit.training.packing import SharedPrefixCollator

WORDS = ["the", "printer", "on", "floor", "3", "is", "dead", "again", "since", "this", "morning", "please", "help"]
# Six fields with subcategories; a product and its components, 96 of them; an urgency and a long answer.
SCHEMAS = ("it_tickets", "eclipse", "erp_urgency")
# (schemas, prompt strategy, whether rows take their schema's prompts in turn)
CASES = {
    "two explicit schemas": (("it_tickets", "erp_urgency"), "explicit", False),
    "three explicit schemas": (SCHEMAS, "explicit", False),
    "two schemas, instructions in turn": (("it_tickets", "erp_urgency"), "implicit", True),
    "two schemas, explicit and short prompts in turn": (("it_tickets", "erp_urgency"), "mixed", True),
}
ROWS = 8


@pytest.fixture(scope="module")
def tokenizer(tiny_model_folder):
    return load_tokenizer(str(tiny_model_folder))


def random_record(schema, chance):
    """A valid record; texts of one word to many."""
    record = {}
    for field in schema.fields:
        if isinstance(field, TextField):
            record[field.name] = " ".join(chance.choices(WORDS, k=chance.choice([1, 4, 16])))
        else:
            record[field.name] = chance.choice(allowed_values(schema, field.name, record))
    return record


def rows_of(names, strategy, in_turn, tokenizer, weights=None):
    """Collator rows of the schemas, one after the other in turn, with the texts of their prompts."""
    chance = random.Random(5)
    made, prompts = [], set()
    segments = {
        name: SegmentTokenizer(
            tokenizer, PromptTemplate(tokenizer, load_schema(name), PromptSettings(strategy=strategy, max_length=2400))
        )
        for name in names
    }
    for number in range(ROWS):
        own = segments[names[number % len(names)]]
        text = " ".join(chance.choices(WORDS, k=chance.randrange(1, 40)))
        row = Row(id=str(number), text=text, record=random_record(own.schema, chance))
        variant = number // len(names) % min(3, own.template.variants) if in_turn else 0
        built = build_examples([row], own, split="train", variants=[variant], weights=weights, with_fields=True)
        made.append({name: column[0] for name, column in built.columns.items()})
        prompts.add(tuple(own.prefix_ids(variant)))
    return made, prompts


def loss_and_gradients(model, batch):
    model.zero_grad()
    losses = token_losses(model, batch)
    loss = losses.weighted_sum / normaliser([batch])
    loss.backward()
    gradients = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    return loss.item(), gradients


def trained_model(family, method, tokenizer):
    model, _ = attach_adapter(random_model(family, vocabulary=len(tokenizer)), AdapterSettings(method=method, r=4))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    compute_losses_in_forward(model.eval())
    return model


@pytest.mark.parametrize("method", ["hybrid", "full"])
@pytest.mark.parametrize(
    ("name", "family"),
    [*((name, "Qwen2") for name in CASES), *(("two explicit schemas", family) for family in FAMILIES[1:])],
)
def test_loss_and_every_gradient_equal_those_of_the_padded_batch(tokenizer, name, family, method):
    made, prompts = rows_of(*CASES[name], tokenizer)
    padded, packed = PaddingCollator(0)(made), SharedPrefixCollator()(made)
    assert row_count(packed) == ROWS and len({len(row["input_ids"]) for row in made}) > ROWS // 2
    # Every prompt stands once, and there are several.
    assert len(prompts) >= 2
    alone = sum(len(row["input_ids"]) - row["prefix_length"] for row in made)
    assert token_count(packed) == alone + sum(map(len, prompts)) < token_count(padded) < padded_tokens(padded)
    model = trained_model(family, method, tokenizer)
    expected, of_padded = loss_and_gradients(model, padded)
    with shared_prefix_attention_of(model):
        loss, of_packed = loss_and_gradients(model, packed)
    assert loss == pytest.approx(expected, rel=1e-5)
    trained = {parameter for parameter, weight in model.named_parameters() if weight.requires_grad}
    assert of_packed.keys() == of_padded.keys() == trained
    size = sum(float(gradient.norm()) ** 2 for gradient in of_padded.values()) ** 0.5
    for parameter, gradient in of_padded.items():
        error = float((of_packed[parameter] - gradient).norm())
        # The smallest gradients, of queries, are float32's rounding of much larger ones.
        assert error < 1e-5 * size and error < 1e-4 * float(gradient.norm()), parameter


def test_dependent_values_and_class_weights_keep_their_tokens(tokenizer):
    """Each trained token with its weight and the field it belongs to follows the token that it follows in its own row."""
    weights = {"category": {"Hardware": 3.0, "Finance": 0.5}, "subcategory": {"Other": 2.0}}
    assert isinstance(load_schema("it_tickets").field("subcategory"), DependentEnumField)
    made, _ = rows_of(SCHEMAS, "explicit", False, tokenizer, weights)
    packed = SharedPrefixCollator()(made)
    columns = [packed[name][0].tolist() for name in ("input_ids", "labels", "weights", "fields")]

    def trained_tokens(ids, labels, weights, fields):
        return [
            (ids[place - 1], label, weights[place], fields[place])
            for place, label in enumerate(labels)
            if label != IGNORED
        ]

    expected = [
        token
        for row in made
        for token in trained_tokens(*(row[name] for name in ("input_ids", "labels", "weights", "fields")))
    ]
    assert sorted(trained_tokens(*columns)) == sorted(expected)
    assert {weight for _, _, weight, _ in expected} >= {1.0, 2.0}
