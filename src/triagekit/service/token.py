"""The bearer token: read from the environment or a file, never from the command line, which every user can list."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Mapping
from pathlib import Path

from triagekit.errors import TriageError
from triagekit.service.settings import ServeSettings

SHORTEST = 16
"""Characters. Fewer could be guessed over the network."""


class Token:
    """Knows only the token's hash."""

    def __init__(self, value: str) -> None:
        self._digest = hashlib.sha256(value.encode()).digest()

    def allows(self, authorization: bytes | None) -> bool:
        """Whether an Authorization header carries the token; the time taken does not depend on how much of it fits."""
        scheme, _, given = (authorization or b"").partition(b" ")
        fits = hmac.compare_digest(hashlib.sha256(given.strip()).digest(), self._digest)
        return fits and scheme.lower() == b"bearer"


def read_token(settings: ServeSettings, environment: Mapping[str, str] = os.environ) -> Token | None:
    """The token, or None where none is set.

    Raises TriageError for one that is empty or too short, and where other machines could come in without one.
    """
    variable = settings.token_variable
    if settings.token_file is not None:
        return _checked(_content(Path(settings.token_file).expanduser()), f"The token file {settings.token_file}")
    if variable in environment:
        return _checked(environment[variable].strip(), f"The environment variable {variable}")
    if settings.for_this_machine_only or settings.without_token:
        return None
    raise TriageError(
        f"Without a token anyone who reaches {settings.host} could use the service. Put one into {variable} "
        f"(export {variable}=$(openssl rand -hex 24)) or into a file (--token-file); --without-token serves everyone; "
        "the default host 127.0.0.1 serves this machine only."
    )


def _checked(value: str, source: str) -> Token:
    if len(value) < SHORTEST:
        raise TriageError(
            f"{source} holds a token of {len(value)} characters; at least {SHORTEST} are needed: openssl rand -hex 24"
        )
    if not value.isascii() or any(character.isspace() or not character.isprintable() for character in value):
        raise TriageError(f"{source} must hold one word of printable ASCII characters.")
    return Token(value)


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise TriageError(f"Cannot read the token file {path}: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise TriageError(f"The token file {path} must hold one word of printable ASCII characters.") from None
