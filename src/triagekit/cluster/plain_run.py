"""What a plain script of `slurm/` runs first: make the run folder, so that a requeued job goes on with the same settings.

    RUN="$(python -m triagekit.cluster.plain_run --name NAME CONFIG [key=value …])"

Prints the run folder; its config.yaml is what the job trains from.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from triagekit.errors import TriageError
from triagekit.settings import to_yaml
from triagekit.training.run_folder import RunFolder
from triagekit.training.train import load_train_settings

USER_ERROR = 2


def make_run(config: str, words: Sequence[str], name: str, *, restarted: bool = False) -> Path:
    """The run folder, made or found. With `restarted` a changed `config` is no mistake: what is stored counts.

    Raises TriageError for mistakes in the settings, or where the folder holds a run with other ones.
    """
    settings = load_train_settings(config, list(words), name)
    place = Path(settings.output) / settings.run_name
    if restarted and RunFolder(place).config.is_file():
        return place
    return RunFolder.create(place, settings.model_dump(mode="json"), to_yaml(settings)).folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit codes: 0 with the folder on stdout, 2 for what the user can mend."""
    parser = argparse.ArgumentParser(prog="python -m triagekit.cluster.plain_run", description="For plain scripts.")
    parser.add_argument("--name", required=True, help="name of the run folder")
    parser.add_argument("config", help="a YAML file, or the name of a shipped preset")
    parser.add_argument("words", nargs="*", metavar="key=value", help="settings that replace those of the file")
    options = parser.parse_args(arguments)
    restarted = os.environ.get("SLURM_RESTART_COUNT", "0") != "0"
    try:
        print(make_run(options.config, options.words, options.name, restarted=restarted))
    except TriageError as error:
        print(f"triage: {error}", file=sys.stderr)
        return USER_ERROR
    return 0


if __name__ == "__main__":
    sys.exit(main())
