"""`triage base`: build or check the embedded base model."""

from __future__ import annotations

import argparse
from pathlib import Path

from triagekit.cli.output import RichProgress, print_json, print_table


def configure(parser: argparse.ArgumentParser) -> None:
    """Two sub-commands: build, check."""
    parser.epilog = "Example: triage base check"
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    raw = argparse.RawDescriptionHelpFormatter
    build = commands.add_parser(
        "build",
        help="make the model from its recipe: tokenizer, pre-training, export",
        description="Make the base model from its recipe. Interrupted, the same command goes on from its checkpoint.",
        epilog="Example: triage base build configs/train/tiny_base.yaml schedule.steps=200 --out my_base",
        formatter_class=raw,
    )
    build.add_argument("config", help="recipe: a YAML file, or the name of a shipped one (tiny_base)")
    build.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace those of the recipe")
    build.add_argument("--out", type=Path, required=True, help="folder to write; replaced in one step at the end")
    build.add_argument("--json", action="store_true", help="print the recipe with its loss curve as JSON")
    build.set_defaults(run=run_build)
    check = commands.add_parser(
        "check",
        help="files, size, parameters, fingerprint, a forward pass",
        description="Check the embedded base, or another folder that `triage base build` wrote.",
        epilog="Example: triage base check --json",
        formatter_class=raw,
    )
    check.add_argument("--folder", type=Path, default=None, help="default: the base that ships with the package")
    check.add_argument("--json", action="store_true", help="print the facts as JSON")
    check.set_defaults(run=run_check)


def run_build(options: argparse.Namespace) -> int:
    """Build into --out."""
    from triagekit.files.resources import find_config
    from triagekit.modeling.base_build.settings import TinyBaseSettings
    from triagekit.settings import load_settings

    settings = load_settings(TinyBaseSettings, find_config("train", options.config), options.overrides)
    from triagekit.modeling.base_build.build import build_base

    with RichProgress() as progress:
        recipe = build_base(settings, options.out, progress)
    if options.json:
        print_json(recipe)
        return 0
    rows = [
        (item["step"], taxonomies.removesuffix("_taxonomies"), *measured.values())
        for item in recipe["unseen_families"]
        for taxonomies, measured in item.items()
        if taxonomies != "step"
    ]
    columns = ("step", "taxonomies", "record loss", "tokens right", "values right")
    print_table("Template families that training never saw", columns, rows)
    print(f"{recipe['parameters']:,} parameters in {options.out} after {recipe['seconds']} s.")
    return 0


def run_check(options: argparse.Namespace) -> int:
    """Check --folder, or the shipped base."""
    from triagekit.modeling.base import EMBEDDED, resolve_base
    from triagekit.modeling.base_build.check import check_base

    facts = check_base(options.folder or Path(resolve_base(EMBEDDED)))
    if options.json:
        print_json(facts)
    else:
        print_table("Base model: sound", ("fact", "value"), list(facts.items()))
    return 0
