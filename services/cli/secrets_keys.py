"""`reverie admin new-secrets-key` and `rotate-secrets`: keys that secrets are sealed with."""

import os
from typing import TYPE_CHECKING, Final

import typer

from services.cli import output
from services.cli.connection import CommandError

if TYPE_CHECKING:
    from services.secrets.opening import PrivateKeys
    from services.store.database import Database

ROTATE_EXAMPLE: Final = "Example: reverie admin rotate-secrets"
NEW_EXAMPLE: Final = "Example: reverie admin new-secrets-key"
_BATCH: Final = 100


def new_secrets_key() -> None:
    """Print a new pair of keys, as two lines for the environment of the service's processes.

    The first belongs to the API only, the second to the results process only: put the new private
    key before the older ones, by comma. Nothing is stored.
    """
    from services.secrets.keys import new_private_key, public_text

    private = new_private_key()
    typer.echo(f"REVERIE_SECRETS_PUBLIC_KEY={public_text(private)}")
    typer.echo(f"REVERIE_SECRETS_PRIVATE_KEYS={private}")


def rotate_secrets(as_json: output.Json = False) -> None:
    """Seal every secret for the newest private key, so that older ones can be thrown away.

    Needs REVERIE_SECRETS_PRIVATE_KEYS with the new key first and the older ones behind it. Values
    are not opened. It may be repeated; run it after the API has got the new public key.
    """
    from services.secrets.keys import BadKeyError
    from services.secrets.opening import PrivateKeys
    from services.settings.env import Settings
    from services.store.database import TRANSIENT_ERRORS, Database

    settings = Settings.from_env(os.environ)
    if settings.secrets_private_keys is None:
        raise CommandError("REVERIE_SECRETS_PRIVATE_KEYS is not set: give the keys, newest first")
    try:
        keys = PrivateKeys.parse(settings.secrets_private_keys)
    except BadKeyError as error:
        raise CommandError(f"REVERIE_SECRETS_PRIVATE_KEYS: {error}") from error
    database = Database(settings.database_url, max_size=1)
    try:
        rotated, failed = _rotate_all(database, keys)
    except TRANSIENT_ERRORS as error:
        raise CommandError(
            f"the database of REVERIE_DATABASE_URL does not answer in time ({error}): what is done "
            "stays; start it and run this command again"
        ) from error
    finally:
        database.close()
    facts = {"key": keys.newest.key_id, "rotated": rotated, "failed": failed}
    if as_json:
        output.print_json(facts)
    else:
        output.print_facts({**facts, "failed": len(failed)})
        for secret_id, reason in failed.items():
            output.print_note(f"{secret_id}: {reason}")
    if failed:
        raise typer.Exit(1)


def _rotate_all(database: "Database", keys: "PrivateKeys") -> tuple[int, dict[str, str]]:
    """How many were sealed again, and by id why others were not."""
    from services.secrets.envelope import SecretUnreadableError
    from services.secrets.opening import seal_again
    from services.store import sealed_secrets

    rotated, failed, after = 0, dict[str, str](), ""
    while True:
        with database.transaction() as conn:
            found = sealed_secrets.of_other_keys(
                conn, keys.newest.key_id, after=after, limit=_BATCH
            )
            for secret in found:
                try:
                    envelope = seal_again(secret.envelope, secret.place, keys)
                except SecretUnreadableError as error:
                    failed[secret.secret_id] = str(error)
                else:
                    rotated += sealed_secrets.reseal(conn, secret, envelope)
        if not found:
            return rotated, failed
        after = found[-1].secret_id
