"""The loss: on which tokens, divided by what, equal to the plain one; sampling and stopping rules."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from datasets import Dataset
from training_helpers import SCHEMA, rows

from triagekit.data.rows import Row
from triagekit.errors import ProblemsError
from triagekit.modeling.adapters import attach_adapter
from triagekit.modeling.base import load_base, load_tokenizer
from triagekit.modeling.segments import SegmentTokenizer
from triagekit.modeling.settings import AdapterSettings, PromptSettings
from triagekit.modeling.template import PromptTemplate
from triagekit.schema import canonical_json
from triagekit.training import examples, loss
from triagekit.training.collator import IGNORED, PaddingCollator
from triagekit.training.label_choices import balanced_weights, class_weights
from triagekit.training.loss import compute_losses_in_forward, give_back_forward, normaliser, token_losses
from triagekit.training.sampler import EpochSampler
from triagekit.training.stopping import evaluations_without_improvement


@pytest.fixture(scope="module")
def segments(tiny_model_folder):
    tokenizer = load_tokenizer(str(tiny_model_folder))
    template = PromptTemplate(tokenizer, SCHEMA, PromptSettings(strategy="implicit", max_length=256))
    return SegmentTokenizer(tokenizer, template)


@pytest.fixture(scope="module")
def model(tiny_model_folder):
    return load_base(str(tiny_model_folder), "fp32", device="cpu")


@pytest.fixture(scope="module")
def data():
    return [Row.from_json(row) for row in rows(12, 1)]


def batch_of(built, indices):
    return PaddingCollator(0)([{name: column[row] for name, column in built.columns.items()} for row in indices])


def build(data, segments, **options):
    return examples.build_examples(data, segments, split="train", variants=[n % 3 for n in range(len(data))], **options)


def test_only_the_record_and_the_end_of_turn_are_trained(segments, data):
    built = build(data, segments)
    for row, ids, labels in zip(data, built.columns["input_ids"], built.columns["labels"], strict=True):
        trained = [label for label in labels if label != IGNORED]
        text = segments.tokenizer.decode(trained)
        assert text == canonical_json(SCHEMA, row.record) + segments.template.end_of_turn
        assert labels[-len(trained) :] == trained == ids[-len(trained) :]


def test_padding_is_masked_even_where_the_pad_token_is_the_end_of_turn(segments, data):
    built = build(data, segments)
    end = segments.template.end_of_turn_id
    batch = PaddingCollator(end)([{name: column[row] for name, column in built.columns.items()} for row in range(12)])
    for index, length in enumerate(built.lengths):
        assert (batch["labels"][index, length:] == IGNORED).all()
        assert (batch["attention_mask"][index] == (torch.arange(batch["labels"].shape[1]) < length)).all()
        assert batch["labels"][index, length - 1] == end


def test_loss_equals_the_plain_one_over_the_whole_effective_batch(segments, data, model):
    built = build(data, segments)
    compute_losses_in_forward(model)
    batches = [batch_of(built, [0, 1, 2]), batch_of(built, [3]), batch_of(built, [4, 5, 6, 7])]
    ours = sum(token_losses(model, batch).weighted_sum for batch in batches) / normaliser(batches)
    give_back_forward(model)
    # By hand: every row alone, unpadded, full logits, mean over all trained tokens of all rows.
    total, count = 0.0, 0
    for row in range(8):
        ids = torch.tensor([built.columns["input_ids"][row]])
        labels = torch.tensor(built.columns["labels"][row])
        log_probabilities = model(input_ids=ids).logits[0].log_softmax(-1)
        for position in range(1, len(labels)):
            if labels[position] != IGNORED:
                total -= log_probabilities[position - 1, labels[position]].item()
                count += 1
    assert count == int(normaliser(batches))
    assert ours.item() == pytest.approx(total / count, rel=1e-5)


def test_gradient_does_not_depend_on_how_a_batch_is_cut(tiny_model_folder, segments, data):
    built = build(data, segments)

    def gradients(cuts):
        model = load_base(str(tiny_model_folder), "fp32", device="cpu")
        model, _ = attach_adapter(model, AdapterSettings(method="full"))
        compute_losses_in_forward(model)
        batches = [batch_of(built, cut) for cut in cuts]
        total = normaliser(batches)
        for batch in batches:
            (token_losses(model, batch).weighted_sum / total).backward()
        return {name: parameter.grad for name, parameter in model.named_parameters()}

    whole, cut = gradients([range(8)]), gradients([[0, 5, 2], [1], [3, 4, 6, 7]])
    for name, gradient in whole.items():
        assert torch.allclose(gradient, cut[name], rtol=1e-4, atol=1e-6), name


def test_the_trainer_divides_by_the_whole_effective_batch(settings_for):
    """Accumulating over micro-batches of one row gives the weights that one batch of eight gives."""
    from safetensors.torch import load_file

    from triagekit.training.train import train

    weights = []
    for micro in (8, 1):
        run = train(settings_for(name=f"micro{micro}", batch={"micro": micro}, adapter={"dropout": 0.0}, max_steps=5))
        weights.append(load_file(str(run.adapter / "adapter_model.safetensors")))
    for name, tensor in weights[0].items():
        assert torch.allclose(tensor, weights[1][name], rtol=1e-3, atol=1e-5), name


def test_class_weights_scale_the_value_tokens_of_their_field_only(segments, data, model):
    weights = {"category": {"Hardware": 5.0}}
    plain, weighted = build(data, segments), build(data, segments, weights=weights)
    index = next(n for n, row in enumerate(data) if row.record["category"] == "Hardware")
    other = next(n for n, row in enumerate(data) if row.record["category"] != "Hardware")
    example = segments.encode_example(data[index].text, data[index].record, index % 3)
    value = SCHEMA.field_names.index("category")
    expected = [5.0 if field == value else float(on) for field, on in zip(example.fields, example.trained, strict=True)]
    assert weighted.columns["weights"][index] == expected
    assert set(weighted.columns["weights"][other]) == {0.0, 1.0}
    compute_losses_in_forward(model)
    batch = batch_of(weighted, [index, other])
    got = token_losses(model, batch)
    raw = token_losses(model, batch_of(plain, [index, other])).negative_log_likelihood
    give_back_forward(model)
    factors = torch.tensor([w for row in (index, other) for w in weighted.columns["weights"][row] if w > 0])
    assert got.weighted_sum.item() == pytest.approx((raw * factors).sum().item(), rel=1e-5)
    assert normaliser([batch]).item() == pytest.approx(factors.sum().item())


def test_balanced_class_weights_have_a_mean_of_one_over_the_rows(settings_for):
    made = [Row.from_json(row) for row in rows(40, 1, skew=True)]
    weights = class_weights(settings_for(class_weights={"category": "balanced"}), made)["category"]
    assert sum(weights[row.record["category"]] for row in made) / len(made) == pytest.approx(1.0)
    assert weights["Hardware"] < min(weights["Software"], weights["Network"])


def test_a_row_without_a_trained_token_is_named(segments, data, monkeypatch):
    import dataclasses

    own = segments.encode_example

    def untrained(text, *others):
        example = own(text, *others)
        nothing = [False] * len(example.trained)
        return dataclasses.replace(example, trained=nothing) if text == data[4].text else example

    monkeypatch.setattr(segments, "encode_example", untrained)
    with pytest.raises(ProblemsError, match=rf"train row {data[4].id}: no token"):
        build(data, segments)


def test_the_models_own_forward_is_back_after_training(model):
    ids = torch.tensor([[1, 2, 3]])
    before = model(input_ids=ids).logits
    compute_losses_in_forward(model)
    assert torch.equal(model(input_ids=ids).logits, before)
    give_back_forward(model)
    assert "forward" not in vars(model) and torch.equal(model(input_ids=ids).logits, before)


def test_prompt_variants_take_turns_and_mixed_shows_the_explicit_one_to_every_second_row():
    turns = [examples.variant_of(row, 1, "implicit", 3) for row in range(6)]
    assert turns == [1, 2, 0, 1, 2, 0]
    mixed = Counter(examples.variant_of(row, 0, "mixed", 4) for row in range(60))
    assert mixed == {0: 30, 1: 10, 2: 10, 3: 10}
    assert {examples.variant_of(row, 5, "explicit", 1) for row in range(9)} == {0}


def test_an_epoch_shows_every_row_once_in_an_order_that_seed_and_epoch_fix():
    lengths = [5, 3, 9, 1, 7, 2, 8, 4, 6, 10]
    sampler = EpochSampler(lengths, effective_batch=4, seed=1)
    orders = [sampler.order(epoch) for epoch in range(3)]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert orders[0] != orders[1] != orders[2]
    assert orders[0] == EpochSampler(lengths, 4, 1).order(0) != EpochSampler(lengths, 4, 2).order(0)
    for order in orders:
        for start in (0, 4, 8):
            step = [lengths[row] for row in order[start : start + 4]]
            assert step == sorted(step)


def test_the_sampler_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    EpochSampler([1] * 20, 4, 7, [1.0] * 20).order(3)
    assert torch.equal(torch.rand(3), expected)


def test_balanced_sampling_draws_every_value_equally_often():
    values = ["a"] * 900 + ["b"] * 90 + ["c"] * 10
    sampler = EpochSampler([1] * 1000, 16, 0, balanced_weights(values))
    drawn = Counter(values[row] for epoch in range(3) for row in sampler.order(epoch))
    assert sum(drawn.values()) == 3000
    assert all(900 < count < 1100 for count in drawn.values())


@pytest.mark.parametrize(
    ("values", "waited"),
    [
        ([], 0),
        ([1.0], 0),
        ([1.0, 0.9, 0.8], 0),
        ([1.0, 0.9995], 1),
        ([1.0, 1.1, 1.2], 2),
        ([1.0, 1.1, 0.5, 0.6], 1),
        # Many gains below the threshold are no improvement, however much they add up to.
        ([1.0, 0.9995, 0.999, 0.9985], 3),
    ],
)
def test_patience_counts_measurements_without_a_gain(values, waited):
    assert evaluations_without_improvement(values, 0.001, greater_is_better=False) == waited
    assert evaluations_without_improvement([-value for value in values], 0.001, greater_is_better=True) == waited


def test_a_loss_that_is_not_a_number_ends_the_run_with_advice(settings_for):
    from triagekit.errors import TriageError
    from triagekit.training.train import train

    settings = settings_for(
        adapter={"method": "full"},
        optimizer={"learning_rate": 1e30, "max_grad_norm": 0.0, "warmup_share": 0.0},
        log_every_steps=1,
    )
    with pytest.raises(TriageError, match="diverged"):
        train(settings)


def test_rows_reach_the_trainer_as_they_were_built(segments, data):
    built = build(data, segments, weights={"category": {"Network": 2.0}})
    dataset = Dataset.from_dict(built.columns)
    assert dataset[3]["input_ids"] == built.columns["input_ids"][3]
    assert set(dataset.column_names) == {"input_ids", "labels", "weights", "prefix_length"}


@pytest.mark.parametrize(
    "method",
    [{}, {"method": "hybrid", "head": "output_tokens"}, {"method": "hybrid"}, {"method": "full"}],
    ids=["lora", "output tokens", "hybrid", "full"],
)
@pytest.mark.parametrize("at_once", [1, 7, 50])
def test_logits_piece_by_piece_give_the_same_loss_and_gradients(
    tiny_model_folder, segments, data, monkeypatch, at_once, method
):
    base = load_base(str(tiny_model_folder), "fp32", device="cpu")
    rows_of_head = list(range(5, 60)) if method.get("head") else None
    model, _ = attach_adapter(base, AdapterSettings(r=4, **method), rows_of_head)
    batch = batch_of(build(data, segments), range(6))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    compute_losses_in_forward(model)
    found = []
    sizes = []
    own = loss._of_logits
    monkeypatch.setattr(loss, "_of_logits", lambda *given: sizes.append(len(given[0])) or own(*given))
    for budget in (loss.LOGITS_AT_ONCE, at_once * model.config.vocab_size * loss.LOGIT_BYTES):
        monkeypatch.setattr(loss, "LOGITS_AT_ONCE", budget)
        losses = token_losses(model, batch)
        gradients = torch.autograd.grad(losses.weighted_sum, trained)
        found.append((losses.negative_log_likelihood, losses.correct, *gradients))
    give_back_forward(model)
    for whole, pieces in zip(*found, strict=True):
        torch.testing.assert_close(pieces, whole, rtol=1e-4, atol=1e-5)
    # Once as a whole; then every piece forward, and again backward.
    count = len(found[0][0])
    assert sizes[0] == count > at_once and max(sizes[1:]) <= at_once and sum(sizes[1:]) == 2 * count


@pytest.mark.parametrize("family", ["gemma2", "granite", "cohere"])
@pytest.mark.parametrize("mixed", [False, True], ids=["fp32", "bf16"])
def test_pieces_of_a_trained_head_follow_the_models_own_scaling(family, mixed):
    """Capped, divided, multiplied logits; a head with its own gradient from above for every token."""
    import transformers

    from triagekit.training.head_loss import HeadLosses

    names = {"gemma2": "Gemma2", "granite": "Granite", "cohere": "Cohere"}
    config = getattr(transformers, f"{names[family]}Config")(
        vocab_size=97,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    if family == "granite":
        config.logits_scaling = 4.0
    torch.manual_seed(0)
    model = getattr(transformers, f"{names[family]}ForCausalLM")(config)
    hidden = torch.randn(23, 16, requires_grad=True)
    targets, above = torch.randint(0, 97, (23,)), torch.randn(23)
    head = model.get_output_embeddings().weight
    found = []
    for at_once in (100, 4):
        with pytest.MonkeyPatch.context() as patch, torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
            patch.setattr(loss, "tokens_at_once", lambda model, at_once=at_once: at_once)
            losses, correct, over = loss.projected_losses(model, hidden, targets, over_vocabulary=True)
        used = "HeadLosses" in str(losses.grad_fn)
        assert used == (at_once == 4), f"{HeadLosses} is for several pieces"
        gradients = torch.autograd.grad((losses * above + 0.3 * over).sum(), [hidden, head])
        found.append((losses, correct.float(), over, *gradients))
    tolerance = 2e-2 if mixed else 1e-5
    for whole, pieces in zip(*found, strict=True):
        assert torch.linalg.norm(pieces - whole) <= tolerance * torch.linalg.norm(whole)
        assert pieces.dtype == whole.dtype
