"""Libraries that talk about what a user of triagekit cannot act on are asked to keep still."""

from __future__ import annotations

import logging
import os
import warnings

LOGGERS = ("transformers", "accelerate", "datasets", "peft", "trl", "bitsandbytes", "torch.distributed", "httpx")


def quiet_libraries() -> None:
    """Errors only, no progress bars, no usage reports. TRIAGEKIT_LIBRARY_LOGS=1 leaves everything as it is."""
    if os.environ.get("TRIAGEKIT_LIBRARY_LOGS"):
        return
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("BITSANDBYTES_NOWELCOME", "1")
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    # DeepSpeed sets its level when peft imports it, and says on standard output that there is no GPU.
    logging.getLogger("DeepSpeed").addFilter(_is_error)
    for category in (FutureWarning, DeprecationWarning, UserWarning):
        for module in ("trl", "transformers", "peft", "accelerate", "datasets", "torch", "bitsandbytes"):
            warnings.filterwarnings("ignore", category=category, module=rf"{module}(\..*)?")


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def quiet_bars() -> None:
    """After the import of transformers: its own bars off."""
    if os.environ.get("TRIAGEKIT_LIBRARY_LOGS"):
        return
    import datasets
    from transformers.utils import logging as library_logging

    library_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    library_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    datasets.disable_progress_bars()
