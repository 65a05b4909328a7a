"""Prompt templates of the common model families, rendered from their own chat templates (shortened to what matters)."""

from __future__ import annotations

import pytest

from triagekit.errors import TriageError
from triagekit.modeling.segments import SegmentTokenizer
from triagekit.modeling.template import PromptSettings, PromptTemplate
from triagekit.schema.prompt import schema_prompt

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "</s>", "<|begin_of_text|>", "<|eot_id|>"]
SPECIAL += [
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<bos>",
    "[INST]",
    "[/INST]",
]

QWEN3 = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' }}"
    "{%- if message.role == 'assistant' %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
    "{{- message.content | trim + '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
    "{%- endif %}"
)
LLAMA3 = (
    "{{- bos_token }}{%- if not date_string is defined %}{%- set date_string = strftime_now('%d %b %Y') %}{%- endif %}"
    "{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content'] | trim %}{%- set messages = messages[1:] %}"
    "{%- else %}{%- set system = '' %}{%- endif %}"
    "{{- '<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: ' + date_string + '\\n\\n' + system + '<|eot_id|>' }}"
    "{%- for message in messages %}{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
    "{{- message['content'] | trim + '<|eot_id|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
DROPS_SYSTEM = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)
CLOCK = "{{ strftime_now('%H:%M:%S.%f') }}" + QWEN3


@pytest.fixture
def with_template(tiny_model_folder):
    from transformers import AutoTokenizer

    def make(template: str | None, bos: str | None = None, eos: str = "<|endoftext|>"):
        tokenizer = AutoTokenizer.from_pretrained(str(tiny_model_folder))
        tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL[1:]})
        tokenizer.bos_token, tokenizer.eos_token = bos, eos
        tokenizer.chat_template = template
        return tokenizer

    return make


@pytest.mark.parametrize(
    ("name", "template", "bos", "starts", "ends", "closes"),
    [
        (
            "qwen3",
            QWEN3,
            None,
            "<|im_start|>system\n",
            "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
            "<|im_end|>",
        ),
        (
            "llama3",
            LLAMA3,
            "<|begin_of_text|>",
            "<|begin_of_text|><|start_header_id|>system",
            "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
            "<|eot_id|>",
        ),
        (
            "gemma",
            GEMMA,
            "<bos>",
            "<bos><start_of_turn>user\n",
            "<end_of_turn>\n<start_of_turn>model\n",
            "<end_of_turn>",
        ),
        ("mistral", DROPS_SYSTEM, "<s>", "<s>[INST] ", " [/INST]", "</s>"),
    ],
)
def test_families(with_template, schema, name, template, bos, starts, ends, closes):
    tokenizer = with_template(template, bos, "</s>" if name == "mistral" else "<|endoftext|>")
    prompt = PromptTemplate(tokenizer, schema, PromptSettings(strategy="explicit"))
    assert prompt.prefix_text(0).startswith(starts)
    assert schema_prompt(schema) in prompt.prefix_text(0)
    assert prompt.suffix_text == ends
    assert tokenizer.convert_ids_to_tokens(prompt.end_of_turn_id) == closes
    own = SegmentTokenizer(tokenizer, prompt)
    prefix = own.prefix_ids(0)
    if bos:
        assert prefix[0] == tokenizer.bos_token_id and prefix.count(tokenizer.bos_token_id) == 1
    assert own.decode(prefix) == prompt.prefix_text(0)
    whole = tokenizer(prompt.prefix_text(0) + "VPN" + prompt.suffix_text, add_special_tokens=False).input_ids
    assert own.decode(whole) == prompt.prefix_text(0) + "VPN" + prompt.suffix_text


def test_the_whole_prompt_is_what_the_chat_template_renders(segments, schema, tokenizer):
    messages = [{"role": "system", "content": schema_prompt(schema)}, {"role": "user", "content": "VPN is down"}]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    template = segments.template
    assert template.prefix_text(0) + "VPN is down" + template.suffix_text == rendered
    implicit = [{"role": "user", "content": f"{schema.instructions[1]}\n\nVPN is down"}]
    rendered = tokenizer.apply_chat_template(implicit, tokenize=False, add_generation_prompt=True)
    assert template.prefix_text(2) + "VPN is down" + template.suffix_text == rendered


def test_without_chat_template_the_plain_layout_is_used(with_template, schema):
    prompt = PromptTemplate(with_template(None), schema, PromptSettings(strategy="implicit"))
    assert prompt.prefix_text(0) == "### Instruction:\nTurn the ticket into JSON.\n\n### Input:\n"
    assert prompt.suffix_text == "\n\n### Output:\n"
    assert prompt.end_of_turn == "<|endoftext|>"


def test_without_chat_template_a_bos_is_put_where_the_tokenizer_puts_one(with_template, schema):
    from tokenizers import processors

    tokenizer = with_template(None, bos="<s>")
    bos_id = tokenizer.convert_tokens_to_ids("<s>")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", bos_id)]
    )
    own = SegmentTokenizer(tokenizer, PromptTemplate(tokenizer, schema, PromptSettings(strategy="implicit")))
    assert own.prefix_ids(0)[0] == bos_id
    assert bos_id not in own.prefix_ids(0)[1:] and bos_id not in own.suffix_ids


def test_the_clock_does_not_change_the_prompt(with_template, schema):
    tokenizer = with_template(CLOCK)
    first, second = (PromptTemplate(tokenizer, schema, PromptSettings()) for _ in range(2))
    assert first.fingerprint == second.fingerprint
    llama = PromptTemplate(with_template(LLAMA3, "<|begin_of_text|>"), schema, PromptSettings())
    assert "Today Date: 26 Jul 2024" in llama.prefix_text(0)


def test_a_template_that_cannot_hold_the_prompt_is_refused(with_template, schema):
    with pytest.raises(TriageError, match=r"cannot hold the prompt.*not today"):
        PromptTemplate(with_template("{{ raise_exception('not today') }}"), schema, PromptSettings())
    with pytest.raises(TriageError, match="missing or repeated"):
        PromptTemplate(with_template("hello"), schema, PromptSettings())


def test_stored_and_read_back_equal(segments, tokenizer):
    import json

    template = segments.template
    back = PromptTemplate.from_dict(tokenizer, json.loads(json.dumps(template.to_dict())))
    assert back.fingerprint == template.fingerprint
    assert back.schema == template.schema or back.schema.fingerprint == template.schema.fingerprint
    assert [back.prefix_text(n) for n in range(4)] == [template.prefix_text(n) for n in range(4)]


def test_another_tokenizers_end_of_turn_is_refused(segments, with_template):
    stored = segments.template.to_dict() | {"end_of_turn": "<|eot_id|>"}
    with pytest.raises(TriageError, match="not the tokenizer that the adapter was trained with"):
        PromptTemplate.from_dict(with_template(QWEN3), stored)


def test_the_fingerprint_follows_everything_that_is_rendered(tokenizer, schema):
    import dataclasses

    settings = [
        PromptSettings(),
        PromptSettings(strategy="implicit"),
        PromptSettings(strategy="mixed"),
        PromptSettings(max_length=600),
    ]
    seen = {PromptTemplate(tokenizer, schema, each).fingerprint for each in settings}
    other = dataclasses.replace(schema, fields=schema.fields[:4])
    seen.add(PromptTemplate(tokenizer, other, PromptSettings()).fingerprint)
    assert len(seen) == 5
