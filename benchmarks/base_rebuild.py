"""Is the embedded base what its recipe makes? Builds it from nothing and compares every file with the one that ships.

About half an hour on 2 cores.

    python benchmarks/base_rebuild.py --out /tmp/base [--built]      (--built: DIR holds a finished build already)
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from record import triage, write_record

from triagekit.files.fingerprint import sha256_file
from triagekit.modeling.base import resolve_base

FILES = ("model.safetensors", "tokenizer.json", "tokenizer_config.json", "config.json", "chat_template.jinja")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--built", action="store_true", help="compare what is in --out instead of building")
    options = parser.parse_args()
    if not options.built:
        triage("base", "build", "configs/train/tiny_base.yaml", "--out", options.out)
    shipped = Path(resolve_base("embedded"))
    recipe = json.loads((options.out / "recipe.json").read_text())
    figures = {
        "steps": recipe["settings"]["schedule"]["steps"],
        "seconds": recipe["seconds"],
        "equal_to_the_shipped_file": {
            name: sha256_file(options.out / name) == sha256_file(shipped / name) for name in FILES
        },
        "versions_of_the_build": recipe["versions"],
        "built": recipe["created"],
    }
    print(write_record("base_rebuild", figures))


if __name__ == "__main__":
    main()
