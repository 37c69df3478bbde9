"""`reverie admin restore`: after a backup of the database was restored."""

import os
from typing import Final

import typer

from services.cli import output
from services.cli.connection import CommandError

EXAMPLE: Final = "Example: reverie admin restore"


def restore(
    as_json: output.Json = False,
) -> None:
    """Bring the runs of a restored database up to the object store.

    The results service does this by itself where it sees that the database was restored. Run it
    where it cannot see that, such as after a copy of the server's disk, before the trainers start.
    Attempts end, and each run that is not over goes on from its newest complete checkpoint. It may
    be stopped and started again.
    """
    from services.domain.ids import new_id
    from services.logs.setup import configure
    from services.objects.errors import ObjectStoreError
    from services.objects.open import open_store
    from services.results.restored import reconcile
    from services.settings.env import Settings
    from services.store import restore_guard
    from services.store.database import TRANSIENT_ERRORS, Database
    from services.workers.scratch import Scratch

    settings = Settings.from_env(os.environ)
    configure("admin", settings.log_format)
    database = Database(settings.database_url, max_size=1)
    try:
        with Scratch(settings.scratch_dir, new_id("wrk")) as scratch:
            with database.transaction() as conn:
                restore_guard.lock_guard(conn)
                restore_guard.declare_restored(conn)
            done = reconcile(database, open_store(settings), scratch)
    except (ObjectStoreError, *TRANSIENT_ERRORS) as error:
        raise CommandError(
            f"the runs are not all reconciled ({error}); until they are, no run is started and no "
            "object is deleted: start database and object store, and run this command again"
        ) from error
    finally:
        database.close()
    if as_json:
        output.print_json(
            {"resume_steps": done.resume_steps, "unknown_runs": list(done.unknown_runs)}
        )
        return
    rows = [
        (run_id, f"step {step}" if step else "the beginning")
        for run_id, step in done.resume_steps.items()
    ]
    output.print_table(("RUN", "GOES ON FROM"), rows)
    for run_id in done.unknown_runs:
        typer.echo(f"{run_id} was submitted after the backup; its objects are kept", err=True)
    typer.echo("next: reverie admin audit acknowledge-restore", err=True)
