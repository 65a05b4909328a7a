"""`triage site list|show|check`: the profiles of clusters."""

from __future__ import annotations

import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Sub-commands and their arguments."""
    parser.epilog = "Example: triage site check slurm/sites/mine.yaml"
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    plain = argparse.RawDescriptionHelpFormatter

    listing = actions.add_parser("list", help="the shipped profiles", formatter_class=plain)
    listing.epilog = "Example: triage site list"
    listing.add_argument("--json", action="store_true", help="print JSON")
    listing.set_defaults(run=list_command)

    showing = actions.add_parser("show", help="a profile as resolved, defaults included", formatter_class=plain)
    showing.epilog = "Example: triage site show csf > slurm/sites/mine.yaml"
    showing.add_argument("site", metavar="SITE", help="name of a shipped profile, or the path of your own")
    showing.add_argument("--json", action="store_true", help="print JSON")
    showing.set_defaults(run=show_command)

    checking = actions.add_parser("check", help="a profile against the live cluster", formatter_class=plain)
    checking.epilog = (
        "Example: triage site check slurm/sites/mine.yaml\n"
        "Run it on a login node. Exit code 0 when nothing is a problem, 1 otherwise."
    )
    checking.add_argument("site", metavar="SITE", help="name of a shipped profile, or the path of your own")
    checking.add_argument("--json", action="store_true", help="print JSON")
    checking.set_defaults(run=check_command)


def list_command(options: argparse.Namespace) -> int:
    """Names and descriptions."""
    from triagekit.cli.output import print_json, print_table
    from triagekit.cluster.sites import list_sites

    sites = list_sites()
    if options.json:
        print_json([{"name": name, "description": description} for name, description in sites])
    else:
        print_table("Sites that ship with triagekit", ["site", ""], sites)
    return 0


def show_command(options: argparse.Namespace) -> int:
    """The profile as YAML that can be saved and changed."""
    from triagekit.cli.output import print_json
    from triagekit.cluster.sites import load_site
    from triagekit.settings import to_yaml

    site = load_site(options.site)
    if options.json:
        print_json(site.model_dump(mode="json"))
    else:
        print(to_yaml(site), end="")
    return 0


def check_command(options: argparse.Namespace) -> int:
    """Everything about the profile at once; 1 when something is a problem."""
    from triagekit.cli.findings import print_findings
    from triagekit.cluster.site_check import check_site
    from triagekit.cluster.sites import load_site

    site = load_site(options.site)
    return print_findings(f"Site {site.name} on this cluster", check_site(site), as_json=options.json)
