"""What the launchers in `jobs/` have in common on their command lines: where to, which rung, what to do at the end."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from triagekit.cluster.site_rungs import SubmitOptions
from triagekit.cluster.sites import load_site, split_overrides
from triagekit.cluster.submitit_jobs import load_submitit, wait_for
from triagekit.cluster.submitit_launch import Launched, Launcher
from triagekit.errors import TriageError

USER_ERROR = 2
FAILED = 1


def launcher_parser(summary: str, example: str, config_help: str) -> argparse.ArgumentParser:
    """A parser with the arguments that every launcher has; the script's own docstring is `summary`."""
    parser = argparse.ArgumentParser(
        description=summary,
        epilog=f"Example: {example}\nsubmitit is needed: pip install 'triagekit[cluster]'. Without it: triage submit.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", metavar="CONFIG", help=config_help)
    parser.add_argument(
        "words", nargs="*", metavar="key=value", help="settings that replace those of CONFIG; site.… those of the site"
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--site", help="name of a shipped site (triage site list), or a YAML file")
    where.add_argument("--local", action="store_true", help="processes on this machine, without Slurm; waits for them")
    parser.add_argument("--wait", action="store_true", help="wait until the jobs have ended; exit code 1 if one failed")
    return parser


def add_rung(parser: argparse.ArgumentParser) -> None:
    """For launchers that train."""
    parser.add_argument("--rung", metavar="NAME", help="take this rung of the ladder, whatever plan and Slurm say")
    parser.add_argument("--policy", choices=["best", "soonest", "best-within"], help="default: the site's")
    parser.add_argument("--patience", metavar="TIME", help="for best-within, e.g. 4h (default: the site's)")


def run_launcher(
    parser: argparse.ArgumentParser,
    work: Callable[[argparse.Namespace, list[str], Launcher], Sequence[Launched]],
    arguments: Sequence[str] | None = None,
) -> int:
    """Parse, launch, print what was submitted, wait where asked to. Exit codes as `triage`'s."""
    options = parser.parse_intermixed_args(arguments)
    words, site_words = split_overrides(options.words)
    try:
        load_submitit()
        site = load_site(options.site, site_words) if options.site else None
        asked = SubmitOptions(
            getattr(options, "policy", None), getattr(options, "patience", None), getattr(options, "rung", None)
        )
        launched = work(options, words, Launcher(site, _say, asked))
        if not launched:
            print("Nothing to launch: everything is finished or in the queue. See: triage jobs")
            return 0
        for one in launched if site else ():
            number = f" ({len(one.names)} members)" if len(one.names) > 1 else ""
            print(f"Submitted {one.kind} as job {one.job_id}{number}: {one.folder}")
        return report(launched) if options.wait or options.local else 0
    except TriageError as error:
        _say(str(error))
        return USER_ERROR


def report(launched: Sequence[Launched]) -> int:
    """Wait for all, and say how each ended; 1 where one failed."""
    code = 0
    for one in launched:
        for name, handle in zip(one.names, one.handles, strict=True):
            wrong = wait_for(handle)
            print(f"{one.kind} {name}: {'failed: ' + wrong if wrong else 'finished'}", flush=True)
            if wrong:
                print(f"  its log: {handle.paths.stdout} and {handle.paths.stderr}", flush=True)
                code = FAILED
    return code


def _say(text: str) -> None:
    print(f"triage: {text}", file=sys.stderr, flush=True)
