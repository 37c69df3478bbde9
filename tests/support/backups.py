"""Backups of a test's database with pg_dump, and their restore."""

import os
import shutil
import subprocess
from pathlib import Path

import psycopg


def _program(name: str) -> str:
    if found := shutil.which(name):
        return found
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(versions[-1])


def back_up(url: str, file: Path) -> None:
    """Write a dump of the database to ``file``."""
    command = [_program("pg_dump"), "--format=custom", f"--file={file}", url]
    subprocess.run(command, check=True, capture_output=True)


def dump_text(url: str) -> bytes:
    """A dump of the database as SQL."""
    done = subprocess.run([_program("pg_dump"), url], check=True, capture_output=True)
    return done.stdout


def restore(url: str, file: Path) -> None:
    """Replace everything in the database by the dump; ends the connections of its clients."""
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    command = [_program("pg_restore"), "--clean", "--if-exists", "--single-transaction"]
    done = subprocess.run(
        [*command, f"--dbname={url}", str(file)], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def copy_data(url: str, file: Path) -> None:
    """Replace the rows only: tables keep their identity, as in a copy of the server's disk."""
    tables = "SELECT format('%I', relname) FROM pg_class WHERE relkind = 'r' AND relnamespace = "
    with psycopg.connect(url, autocommit=True) as conn:
        names = [row[0] for row in conn.execute(tables + "'public'::regnamespace")]
        conn.execute(f"TRUNCATE {', '.join(names)} CASCADE")
    command = [_program("pg_restore"), "--data-only", "--disable-triggers", f"--dbname={url}"]
    done = subprocess.run(
        [*command, str(file)],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ},
    )
    assert done.returncode == 0, done.stderr
