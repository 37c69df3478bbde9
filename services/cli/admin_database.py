"""The service's database, as `reverie admin` uses it."""

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Final

import typer

from services.cli.connection import CommandError

if TYPE_CHECKING:
    from services.settings.env import Settings
    from services.store.database import Connection

TenantArgument = Annotated[str, typer.Argument(metavar="TENANT", help="A tenant's id or name.")]
_SHOWN: Final = 20


@contextlib.contextmanager
def open_database() -> Iterator[tuple["Settings", "Connection"]]:
    """The settings, and one transaction in the database that they name.

    Raises CommandError where the database does not answer, or the rules of the service forbid what
    was asked for.
    """
    from services.domain.errors import DomainError
    from services.settings.env import Settings
    from services.store.database import TRANSIENT_ERRORS, Database

    settings = Settings.from_env(os.environ)
    database = Database(settings.database_url, max_size=1)
    try:
        with database.transaction() as conn:
            yield settings, conn
    except TRANSIENT_ERRORS as error:
        raise CommandError(
            f"the database of REVERIE_DATABASE_URL does not answer in time ({error}): start it, "
            "try again, or set the variable as for the service's processes"
        ) from error
    except DomainError as error:
        raise CommandError(str(error)) from error
    finally:
        database.close()


def tenant_of(conn: "Connection", tenant: str) -> str:
    """The id of the tenant with this id or name; raises CommandError unless there is one."""
    from services.store import tenants

    found = tenants.find(conn, tenant)
    if len(found) > 1:
        raise CommandError(f"several tenants are called {tenant}: give an id, {_either(found)}")
    if not found:
        known = [f"{name} ({tenant_id})" for tenant_id, name in tenants.newest(conn, _SHOWN)]
        raise CommandError(f"there is no tenant {tenant}; the newest are {_either(known)}")
    return found[0]


def _either(names: list[str]) -> str:
    return " or ".join(names) or "none"
