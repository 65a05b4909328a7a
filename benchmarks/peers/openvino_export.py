"""A plain Hugging Face folder to OpenVINO's form: `python openvino_export.py MODEL OUT fp32|int8`."""

from __future__ import annotations

import sys

from optimum.exporters.openvino import main_export
from optimum.intel import OVConfig


def main() -> None:
    model, out, weights = sys.argv[1:4]
    main_export(model, out, task="text-generation-with-past", ov_config=OVConfig(dtype=weights))


if __name__ == "__main__":
    main()
