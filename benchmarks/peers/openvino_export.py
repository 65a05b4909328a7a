"""A plain Hugging Face folder to OpenVINO's form: `python openvino_export.py MODEL OUT fp32|int8`."""

from __future__ import annotations

import sys
from pathlib import Path

import openvino
from openvino_tokenizers import convert_tokenizer
from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig
from transformers import AutoTokenizer


def main() -> None:
    model, out, weights = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    # By itself it compresses the weights of large models, unasked.
    how = {"quantization_config": OVWeightQuantizationConfig(bits=8, sym=True)} if weights == "int8" else {}
    exported = OVModelForCausalLM.from_pretrained(model, export=True, compile=False, load_in_8bit=bool(how), **how)
    exported.save_pretrained(out)
    # Structured output reads the vocabulary from these.
    tokenizer, detokenizer = convert_tokenizer(AutoTokenizer.from_pretrained(model), with_detokenizer=True)
    openvino.save_model(tokenizer, out / "openvino_tokenizer.xml")
    openvino.save_model(detokenizer, out / "openvino_detokenizer.xml")


if __name__ == "__main__":
    main()
