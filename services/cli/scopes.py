"""Scopes as options."""

from collections.abc import Sequence

from services.cli.connection import CommandError
from services.domain.access import SCOPES, Scope


def scopes_of(option: str, texts: Sequence[str]) -> list[Scope]:
    """The scopes of these names; raises CommandError where one is unknown."""
    known = {str(scope): scope for scope in SCOPES}
    unknown = [text for text in texts if text not in known]
    if unknown or not texts:
        named = ", ".join(unknown) or "nothing"
        raise CommandError(f"{option} names {named}; it can name {', '.join(SCOPES)}")
    return [known[text] for text in texts]
