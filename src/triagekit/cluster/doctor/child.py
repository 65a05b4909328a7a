"""What only an import can tell, tried in a process of its own: `python -m triagekit.cluster.doctor.child NAME…`.

Prints one JSON object a trial on stdout as soon as it is known: {"trial", "ok", …}. Whatever the libraries print goes
to stderr.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any


def try_torch() -> dict[str, Any]:
    """Build and the cards as torch sees them, each with a small product computed on it."""
    import torch

    cards = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        card: dict[str, Any] = {"name": torch.cuda.get_device_name(index)}
        card["capability"] = list(torch.cuda.get_device_capability(index))
        try:
            matrix = torch.ones((64, 64), device=f"cuda:{index}")
            card["computes"] = bool((matrix @ matrix).sum().item() == 64.0**3)
        except RuntimeError as error:
            # A build without kernels for this card's capability, or a card in a bad state: the others may still work.
            card |= {"computes": False, "error": _first_line(error)}
        cards.append(card)
    return {"cuda": torch.version.cuda, "architectures": torch.cuda.get_arch_list(), "cards": cards}


def try_bitsandbytes() -> dict[str, Any]:
    """A small NF4 layer on the first card, else on the CPU: quantise, multiply, compare with the exact product."""
    import torch

    layers: Any = importlib.import_module("bitsandbytes").nn
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    exact = torch.nn.Linear(64, 64, bias=False)
    layer = layers.Linear4bit(64, 64, bias=False, quant_type="nf4", compute_dtype=torch.float32)
    layer.load_state_dict(exact.state_dict())
    layer = layer.to(device)
    given = torch.randn(4, 64)
    with torch.no_grad():
        difference = (layer(given.to(device)).cpu() - exact(given)).norm() / exact(given).norm()
    return {"device": device, "relative_difference": round(float(difference), 4)}


def try_deepspeed() -> dict[str, Any]:
    """Import only: the ZeRO stages used here need no operator that must be compiled."""
    deepspeed = importlib.import_module("deepspeed")
    accelerator = importlib.import_module("deepspeed.accelerator").get_accelerator()
    return {"version": str(deepspeed.__version__), "device": str(accelerator.device_name())}


TRIALS = {"torch": try_torch, "bitsandbytes": try_bitsandbytes, "deepspeed": try_deepspeed}


def main() -> int:
    """Run the named trials; one failing does not stop the next."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for name in sys.argv[1:]:
        try:
            answer = {"trial": name, "ok": True} | TRIALS[name]()
        except (Exception, SystemExit) as error:  # whatever a broken library raises is the finding
            answer = {"trial": name, "ok": False, "error": _first_line(error), "kind": type(error).__name__}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    return 0


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
