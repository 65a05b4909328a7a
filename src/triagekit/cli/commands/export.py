"""`triage export merge|adapter|tarball|gguf|push`: a run in the forms that other programs and people take."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from triagekit.cli.actions import add_action
from triagekit.cli.output import RichProgress, print_json, print_table
from triagekit.errors import TriageError
from triagekit.modeling.quiet import quiet_libraries


def configure(parser: argparse.ArgumentParser) -> None:
    """Sub-commands and their arguments."""
    parser.description = (
        "A finished run as a plain merged model, a PEFT adapter, one archive, a GGUF file, or on a hub.\n"
        "No export holds a ticket: the sample prompts that training keeps beside the adapter are replaced."
    )
    parser.epilog = "Example: triage export merge runs/lora-seed1 --out merged --dtype bf16"
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    merge = add_action(
        actions,
        "merge",
        "the adapter folded into the un-quantised base, evaluated again",
        "triage export merge runs/lora-seed1 --out merged --dtype bf16",
    )
    _run_and_out(merge, "folder to write: config.json, model.safetensors, tokenizer, schema, card")
    merge.add_argument(
        "--dtype", choices=("fp32", "fp16", "bf16"), help="number type of the saved weights (default: the base's own)"
    )
    merge.add_argument(
        "--check-rows",
        type=_positive,
        default=64,
        metavar="N",
        help="tickets of the validation split to compare on, before and after (default: 64)",
    )
    merge.add_argument(
        "--data", type=Path, help="the processed data folder, where it is not at the place the run names"
    )
    _common(merge, merge_command)

    adapter = add_action(
        actions,
        "adapter",
        "a folder that PEFT alone opens to the same logits",
        "triage export adapter runs/lora-seed1 --out adapter",
    )
    _run_and_out(adapter, "folder to write: adapter_model.safetensors, adapter_config.json, schema, card")
    _common(adapter, adapter_command)

    tarball = add_action(
        actions,
        "tarball",
        "adapter, tokenizer, schema, metrics and card in one file; the same run gives the same bytes",
        "triage export tarball runs/lora-seed1 --out lora-seed1.tar.gz",
    )
    _run_and_out(tarball, "file to write, ending in .tar.gz")
    _common(tarball, tarball_command, device=False)

    gguf = add_action(
        actions,
        "gguf",
        "one file for llama.cpp, read back and compared (Qwen2, Qwen3, Llama)",
        "triage export gguf runs/lora-seed1 --out lora-seed1.gguf --type q8_0",
    )
    gguf.add_argument("--type", choices=("f32", "f16", "q8_0"), default="f16", help="of the matrices (default: f16)")
    _run_and_out(gguf, "file to write, ending in .gguf", "a run folder, or a folder made by `triage export merge`")
    _common(gguf, gguf_command)

    push = add_action(
        actions,
        "push",
        "show what would go to a hub; with --yes, upload it",
        "triage export push runs/lora-seed1 --repo my-organisation/ticket-triage",
    )
    push.add_argument("target", metavar="RUN", type=Path, help="a run folder, e.g. runs/lora-seed1")
    push.add_argument("--repo", required=True, metavar="OWNER/NAME", help="the repository; made if it is not there")
    push.add_argument(
        "--merged", type=Path, metavar="DIR", help="upload this folder of `triage export merge` instead of the adapter"
    )
    push.add_argument("--yes", action="store_true", help="really upload; without it nothing leaves this machine")
    push.add_argument("--public", action="store_true", help="for everybody to see (default: private)")
    push.add_argument("--endpoint", metavar="URL", help="a hub of one's own (default: HF_ENDPOINT, or the public hub)")
    _common(push, push_command)


def merge_command(options: argparse.Namespace) -> int:
    """Merge and show what it changed."""
    quiet_libraries()
    from triagekit.export.merged_folder import export_merged

    with RichProgress() as progress:
        record = export_merged(
            options.target,
            options.out,
            options.dtype,
            options.check_rows,
            options.data,
            options.base,
            options.device,
            progress,
        )
    if options.json:
        print_json(record)
        return 0
    _print_merge(record, options.out)
    return 0


def adapter_command(options: argparse.Namespace) -> int:
    """Write PEFT's folder."""
    quiet_libraries()
    from triagekit.export.peft_folder import export_adapter

    record = export_adapter(options.target, options.out, options.base, options.device)
    if options.json:
        print_json(record)
        return 0
    check = record["check"]
    print(f"{options.out}: adapter {record['fingerprint']} of {record['run']} for {record['base']}")
    for change in record["converted"]:
        print(f"converted: {change}")
    print(
        f"opened by PEFT alone: logits differ by at most {check['max_logit']:.2g} (largest {check['largest_logit']:.3g})"
    )
    return 0


def tarball_command(options: argparse.Namespace) -> int:
    """Pack a run."""
    quiet_libraries()
    from triagekit.export.tarball import export_tarball

    record = export_tarball(options.target, options.out, options.base)
    if options.json:
        print_json(record)
        return 0
    _print_files(f"{options.out} ({_size(record['bytes'])})", record["files"])
    print(f"sha256 {record['sha256']}")
    return 0


def gguf_command(options: argparse.Namespace) -> int:
    """Write a GGUF file."""
    quiet_libraries()
    from triagekit.export.gguf_file import export_gguf

    with RichProgress() as progress:
        record = export_gguf(options.target, options.out, options.type, options.base, options.device, progress)
    if options.json:
        print_json(record)
        return 0
    check = record["check"]
    types = ", ".join(f"{count} {kind}" for kind, count in sorted(record["tensors_by_type"].items()))
    print(f"{options.out}: {_size(record['bytes'])}, {record['architecture']}, pre-tokenizer {record['pre_tokenizer']}")
    print(f"tensors: {types}; largest rounding {check['largest_rounding']:.2g} of a tensor's largest number")
    print(
        f"read back: logits differ by at most {check['max_logit']:.2g} (largest {check['largest_logit']:.3g}), "
        f"same likeliest token at {check['same_next_token']:.1%} of positions"
    )
    return 0


def push_command(options: argparse.Namespace) -> int:
    """Show, or upload."""
    quiet_libraries()
    from triagekit.export.push import PushTarget, push

    if options.offline and options.yes:
        raise TriageError("--offline and --yes together make no sense: uploading needs the network.")
    target = PushTarget(options.repo, options.endpoint, options.public)
    plan = push(options.target, target, options.merged, options.yes, options.base, options.device)
    if options.json:
        print_json(plan)
        return 0
    if not plan["uploaded"]:
        print(f"{plan['card']}\n{'-' * 40} end of the model card")
    _print_files(
        f"{plan['what']} of {plan['run']} to {plan['hub']}/{plan['repo']} ({plan['visibility']})", plan["files"]
    )
    print(
        f"uploaded: {plan['commit']}"
        if plan["uploaded"]
        else "Nothing was uploaded. The same command with --yes does it."
    )
    return 0


def _run_and_out(
    parser: argparse.ArgumentParser, out_help: str, run_help: str = "a run folder, e.g. runs/lora-seed1"
) -> None:
    parser.add_argument("target", metavar="RUN", type=Path, help=run_help)
    parser.add_argument("--out", required=True, type=Path, help=out_help)


def _common(parser: argparse.ArgumentParser, command: Any, device: bool = True) -> None:
    parser.add_argument("--base", help="another place of the same base model (its fingerprint is checked)")
    if device:
        parser.add_argument("--device", help="cpu, cuda, cuda:1, … (default: a GPU if there is one)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=command)


def _print_merge(record: dict[str, Any], out: Path) -> None:
    check = record["check"]
    print(f"{out}: {record['run']} merged into {record['base']}, weights in {record['dtype']}")
    columns = {"adapter on the plain base": check["adapter_on_base"], "merged": check["merged"]}
    if check["as_trained"]:
        bits = check["as_trained"]["quantization"]["bits"]
        columns = {f"as trained, {bits}-bit base": check["as_trained"]} | columns
    if check["rows"]:
        rows = [
            ["loss, nats a token", *(f"{each['loss']:.5f}" for each in columns.values())],
            ["all label fields right", *(f"{each['all_label_fields']:.1%}" for each in columns.values())],
            *(
                [name, *(f"{each['fields'][name]:.1%}" for each in columns.values())]
                for name in check["merged"]["fields"]
            ),
        ]
        print_table(f"{check['rows']} tickets of the {check['split']} split", ["", *columns], rows)
    differences = {"adapter on the plain base": check["difference"]}
    if check["difference_to_as_trained"]:
        differences["as trained"] = check["difference_to_as_trained"]
    for name, found in differences.items():
        changed = f"; records changed: {found['records_changed']} of {check['rows']}" if check["rows"] else ""
        print(
            f"against {name}: logits differ by at most {found['max_logit']:.2g} "
            f"(largest {found['largest_logit']:.3g}){changed}"
        )
    for warning in record["warnings"]:
        print(f"warning: {warning}")


def _print_files(title: str, files: dict[str, int]) -> None:
    print(title)
    print_table("", ["file", "bytes"], [(name, f"{size:,}") for name, size in files.items()])


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{count:,} bytes"


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of at least 1")
    return int(text)
