"""The public key that this process seals secrets with."""

from services.secrets.keys import BadKeyError, PublicKey, parse_public
from services.settings.env import Settings, SettingsError


def sealing_key(settings: Settings) -> PublicKey | None:
    """None where the operator has set none. Raises SettingsError."""
    text = settings.secrets_public_key
    try:
        return None if text is None else parse_public(text)
    except BadKeyError as error:
        raise SettingsError(f"REVERIE_SECRETS_PUBLIC_KEY: {error}") from None
