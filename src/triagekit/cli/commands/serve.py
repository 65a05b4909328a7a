"""`triage serve RUN`: records over HTTP, from the same decoder as `triage predict`."""

from __future__ import annotations

import argparse
import sys

from triagekit.cli.scoring_options import add_scoring_options, add_thresholds


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.epilog = (
        "Example: triage serve runs/lora-seed1\n"
        '         curl -s localhost:8000/v1/triage -H "Content-Type: application/json" '
        '-d \'{"text": "The printer is dead"}\'\n'
        "         TRIAGEKIT_TOKEN=$(openssl rand -hex 24) triage serve runs/lora-seed1 --host 0.0.0.0\n\n"
        "Stops on SIGTERM or Ctrl-C when what is queued is done (exit code 0), on the second one at once."
    )
    parser.add_argument("run_folder", metavar="RUN", help="runs/<name> or an adapter folder")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace those of the config")
    parser.add_argument("--config", default="default", help="YAML file or shipped name (default: default)")
    parser.add_argument("--host", help="address to listen on (default: 127.0.0.1, this machine only)")
    parser.add_argument("--port", type=int, metavar="N", help="port (default: 8000; 0: any free one)")
    parser.add_argument("--token-file", metavar="FILE", help="holds the bearer token (else: variable TRIAGEKIT_TOKEN)")
    parser.add_argument(
        "--without-token", action="store_true", default=None, help="serve other machines although there is no token"
    )
    parser.add_argument("--base", help="another place of the same base model; its content is checked")
    parser.add_argument("--batch-size", type=int, metavar="N", help="tickets decoded at once")
    add_thresholds(parser)
    add_scoring_options(parser)
    parser.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
    parser.add_argument("--json", action="store_true", help="log lines as JSON")
    parser.set_defaults(run=run)


_FROM_OPTIONS = (
    "host",
    "port",
    "token_file",
    "without_token",
    "base",
    "batch_size",
    "auto_threshold",
    "auto_at",
    "fields",
    "precision",
    "device",
)


def run(options: argparse.Namespace) -> int:
    """Serve until asked to stop."""
    from triagekit.errors import TriageError
    from triagekit.files.resources import find_config
    from triagekit.files.yaml_file import YamlDocument, load_yaml
    from triagekit.service.settings import ServeSettings
    from triagekit.service.token import read_token
    from triagekit.settings import parse_settings

    document = load_yaml(find_config("serve", options.config))
    given = {name: getattr(options, name) for name in _FROM_OPTIONS if getattr(options, name) is not None}
    data = {**(document.data or {}), "run": options.run_folder, **given}
    settings = parse_settings(ServeSettings, YamlDocument(document.path, data, document.lines), options.overrides)
    token = read_token(settings)
    try:
        from triagekit.service.server import listen, serve
        from triagekit.service.service import TriageService
    except ImportError as error:
        raise TriageError(f"triage serve needs the package {error.name}: pip install 'triagekit[serve]'") from None

    door = listen(settings)
    serve(TriageService(settings, token), door, options.json, _say)
    return 0


def _say(line: str) -> None:
    print(f"triage: {line}", file=sys.stderr, flush=True)
