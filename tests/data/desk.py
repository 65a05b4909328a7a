"""A small schema and made-up tickets for it."""

SCHEMA = """\
name: desk
title: Desk
description: A small desk.
fields:
  - name: summary
    kind: text
    max_length: 60
    optional: true
  - name: category
    kind: enum
    values: [Hardware, Network, Access]
    aliases: {Net: Network}
"""

WORDS = [
    "printer",
    "laptop",
    "screen",
    "vpn",
    "wifi",
    "badge",
    "mail",
    "login",
    "folder",
    "dock",
    "cable",
    "phone",
    "server",
    "update",
    "driver",
    "token",
]


def tickets(count=60):
    """Different texts, three labels, every tenth rare."""
    for n in range(count):
        words = " ".join(WORDS[(n * k + k) % len(WORDS)] + str(n * k) for k in (1, 3, 5, 7, 11, 13))
        category = "Access" if n % 10 == 0 else ("Hardware" if n % 2 else "Network")
        yield {"id": f"T{n}", "text": f"Ticket about {words}", "category": category, "language": "en"}
