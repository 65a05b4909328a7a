"""Tiny random models of the families that GGUF export writes, each with its family's own tokenizer rule."""

from __future__ import annotations

from pathlib import Path

LLAMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
LLAMA_PATTERN = _WORDS + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CORPUS = [
    "The printer on floor 3 is dead, please help. VPN login fails after the password reset. Outlook crashes daily.",
    '{"summary":"printer is offline","category":"Hardware","kind":"Laptop","priority":"High","tags":["vip"]}',
    "Mi portátil no arranca, ¿pueden ayudarme? Gracias. Error 0x80070005 since 12:45 on 2024-01-31.",
] * 3
SIZES = {
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}


def make_llama(folder: Path, **changes) -> Path:
    """Llama 3: its splitting rule, a begin token, a head of its own, fillers behind the vocabulary."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE(ignore_merges=True))
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    raw.decoder = decoders.ByteLevel()
    specials = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator(CORPUS, trainer)
    raw.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 0)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>", pad_token="<|end_of_text|>"
    )
    tokenizer.chat_template = LLAMA_TEMPLATE
    tokenizer.save_pretrained(folder)
    return _llama_weights(folder, len(tokenizer) + 4, 4, changes)


def make_pieces(folder: Path) -> Path:
    """Llama 2's kind of tokenizer: spaces as ▁, bytes for unknown characters, every way to join a piece listed."""
    import json

    from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    raw.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=560, special_tokens=specials, show_progress=False)
    raw.train_from_iterator([word for text in CORPUS for word in text.split()], trainer)
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    content = json.loads(raw.to_str())
    content["added_tokens"] = content["added_tokens"][:3]
    vocabulary = content["model"]["vocab"]
    content["model"]["merges"] = [
        [piece[:cut], piece[cut:]]
        for piece in sorted(vocabulary, key=vocabulary.__getitem__)
        if vocabulary[piece] >= len(specials)
        for cut in range(1, len(piece))
        if piece[:cut] in vocabulary and piece[cut:] in vocabulary
    ]
    folder.mkdir(parents=True)
    (folder / "raw.json").write_text(json.dumps(content), encoding="utf-8")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "raw.json"), bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    (folder / "raw.json").unlink()
    tokenizer.save_pretrained(folder)
    return _llama_weights(folder, len(tokenizer), 2, {})


def _llama_weights(folder: Path, vocabulary: int, end: int, changes: dict) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    values = {
        "vocab_size": vocabulary,
        "hidden_size": 64,
        "bos_token_id": 0 if end == 4 else 1,
        "eos_token_id": end,
        "tie_word_embeddings": False,
        **SIZES,
    }
    config = LlamaConfig(**{**values, **changes})
    model = LlamaForCausalLM(config)
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            weight.data.normal_(0, 0.05)
        if "q_proj" in name or "k_proj" in name:
            # Attention that looks at places: with the small weights of a new model no turning of them would be seen.
            weight.data *= 15
    model.save_pretrained(folder)
    return folder


def make_qwen3(folder: Path, tokenizer_from: Path) -> Path:
    """Qwen3: heads of 128, as its readers take for granted, norms on query and key; rows of 48, no whole q8_0 blocks."""
    import torch
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_from)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(2)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=48,
        head_dim=128,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        **SIZES,
    )
    model = Qwen3ForCausalLM(config)
    for name, weight in model.named_parameters():
        if name.endswith("norm.weight"):
            weight.data.uniform_(0.8, 1.2)
    model.save_pretrained(folder)
    return folder
