"""llama.cpp itself, by a binding's wheel: tokens, log-probabilities and greedy text of a GGUF file. Run as a process of
its own (arguments: file, questions as JSON; answers as JSON on the last line), so that its native threads end with it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def ask(path: Path, questions: list[dict]) -> list[dict]:
    """One answer a question {"prompt": token ids or text, "tokens": how many}: {"prompt_tokens", "tokens", "logprobs"}."""
    command = [sys.executable, __file__, str(path), json.dumps(questions)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def main(path: str, questions: str) -> None:
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = path
    parameters.n_ctx = 512
    parameters.n_parallel = 1
    parameters.cpuparams.n_threads = 1
    parameters.warmup = False
    # Keys and values in full precision, no approximate attention: what is compared is the file.
    parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    server = xllamacpp.Server(parameters)
    answers = []
    for question in json.loads(questions):
        asked = {"temperature": 0, "n_probs": 5, "cache_prompt": False, "n_predict": question["tokens"]}
        said = server.handle_completions({"prompt": question["prompt"], **asked, **question.get("options", {})})
        content = (said["choices"][0]["logprobs"] or {"content": []})["content"]
        answers.append(
            {
                "prompt_tokens": said["usage"]["prompt_tokens"],
                "tokens": [item["id"] for item in content],
                "logprobs": [{str(top["id"]): top["logprob"] for top in item["top_logprobs"]} for item in content],
                "text": said["choices"][0]["text"],
            }
        )
    print("\n" + json.dumps(answers), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
