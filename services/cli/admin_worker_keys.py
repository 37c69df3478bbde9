"""`reverie admin worker-keys`: keys of machines that work over HTTPS only."""

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from services.cli import output
from services.cli.admin_database import open_database
from services.cli.moments import Expires, expiry_of, rfc3339

if TYPE_CHECKING:
    from services.store.worker_keys import WorkerKey

app = typer.Typer(no_args_is_help=True, help="Keys of workers that join over HTTPS.")

_CREATE_EXAMPLE: Final = """Example:

reverie admin worker-keys create box-1 --gpu-class h100 --expires 30d"""
_MOST: Final = 1000


@app.command("create", epilog=_CREATE_EXAMPLE)
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the machine.")],
    gpu_class: Annotated[str, typer.Option(metavar="CLASS", help="The class of its GPU.")],
    *,
    node: Annotated[
        str | None,
        typer.Option(help="For workers that share a machine: its name; default: NAME."),
    ] = None,
    expires: Expires = None,
    as_json: output.Json = False,
) -> None:
    """Create a key for one `reverie worker --join`. It is printed this once."""
    from services.store import worker_keys

    with open_database() as (settings, conn):
        key, secret = worker_keys.create(
            conn,
            settings.key_pepper,
            name=name,
            gpu_class=gpu_class,
            node=node,
            expires_at=expiry_of(expires),
        )
    facts = {"key": key.key_id, "worker": key.worker_id, "secret": secret}
    if as_json:
        output.print_json(facts)
        return
    output.print_facts(facts)
    output.print_note("Keep the secret now: it is not shown again.")


@app.command("list")
def list_keys(as_json: output.Json = False) -> None:
    """Show the keys of remote workers, newest first."""
    from services.store import worker_keys

    with open_database() as (_, conn):
        keys = [_facts(key) for key in worker_keys.list_page(conn, _MOST)]
    if as_json:
        output.print_json(keys)
        return
    rows = [
        (
            key["id"],
            key["name"],
            key["worker"],
            key["gpu_class"],
            output.when(key["last_used_at"]) or "never",
            output.when(key["expires_at"]) or "never",
        )
        for key in keys
    ]
    output.print_table(("ID", "NAME", "WORKER", "GPU CLASS", "LAST USED", "EXPIRES"), rows)


@app.command("revoke")
def revoke(
    key: Annotated[str, typer.Argument(metavar="KEY", help="key_…, the id; not the key itself.")],
) -> None:
    """Stop a worker's key at once; the run that it holds goes to another worker."""
    from services.store import worker_keys

    with open_database() as (_, conn):
        worker_keys.revoke(conn, key)
    output.print_facts({"key": key, "status": "revoked"})


def _facts(key: "WorkerKey") -> dict[str, Any]:
    return {
        "id": key.key_id,
        "name": key.name,
        "worker": key.worker_id,
        "gpu_class": key.gpu_class,
        "node": key.node,
        "created_by": key.created_by,
        "last_used_at": rfc3339(key.last_used_at),
        "expires_at": rfc3339(key.expires_at),
    }
