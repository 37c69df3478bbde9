"""Poison in rows: what a lock, a crash or an older version of the service may leave behind."""

import contextlib
from collections.abc import Iterator

from tests.faults.poison.host import Host
from tests.support.waiting import wait_until


@contextlib.contextmanager
def locked_run(host: Host) -> Iterator[str]:
    """Another client's transaction holds the row of the run."""
    with host.connection() as conn, conn.transaction():
        with host.submitted() as run_id:
            conn.execute("SELECT FROM runs WHERE run_id = %s FOR UPDATE", (run_id,))
        yield run_id


@contextlib.contextmanager
def locked_shard(host: Host) -> Iterator[str]:
    """Another client's transaction holds the cache shards that the run needs."""
    dataset_id = host.push(host.ada, host.files())
    first = host.submit(dataset_id)
    host.end_of(first)
    with host.connection() as conn, conn.transaction():
        conn.execute(
            "SELECT FROM cache_shards JOIN run_shards USING (tenant_id, digest)"
            " WHERE run_id = %s FOR UPDATE OF cache_shards",
            (first,),
        )
        run_id = host.submit(dataset_id)
        wait_until(lambda: host.row(run_id)["reason"], what="the run to be postponed")
        yield run_id


@contextlib.contextmanager
def corrupt_datasets(host: Host) -> Iterator[str]:
    with host.submitted() as run_id:
        host.do("UPDATE runs SET datasets = '[]' WHERE run_id = %(run_id)s", run_id=run_id)
    yield run_id


@contextlib.contextmanager
def lost_documents(host: Host) -> Iterator[str]:
    with host.submitted() as run_id:
        host.do("DELETE FROM run_documents WHERE run_id = %(run_id)s", run_id=run_id)
    yield run_id


@contextlib.contextmanager
def exception_in_admission(host: Host) -> Iterator[str]:
    """The database raises an error that the service does not know, for this run alone."""
    with host.submitted() as run_id, host.connection() as conn:
        conn.execute(
            "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'a fault of a test'; END $$"
        )
        conn.execute(
            "CREATE TRIGGER fail BEFORE UPDATE ON run_documents FOR EACH ROW"
            f" WHEN (NEW.run_id = '{run_id}') EXECUTE FUNCTION fail()"
        )
    wait_until(lambda: host.row(run_id)["reason"], what="the run to be postponed")
    yield run_id
    with host.connection() as conn:
        conn.execute("DROP FUNCTION fail CASCADE")


@contextlib.contextmanager
def older_plan(host: Host) -> Iterator[str]:
    """A plan that this version cannot read, of a run that waits for its admission."""
    with host.submitted() as run_id:
        _lose_seed(host, run_id)
    yield run_id


@contextlib.contextmanager
def older_plan_at_the_worker(host: Host) -> Iterator[str]:
    """The same, of a run that was admitted before the upgrade."""
    run_id = _admitted_elsewhere(host)
    _lose_seed(host, run_id)
    _bring_back(host, run_id)
    yield run_id


@contextlib.contextmanager
def no_worker_of_its_class(host: Host) -> Iterator[str]:
    """A run of a GPU class that nobody has; then the operator gives it one with workers."""
    run_id = _admitted_elsewhere(host)
    yield run_id
    _bring_back(host, run_id)


def _admitted_elsewhere(host: Host) -> str:
    """A run that waits for a worker of the class ``elsewhere``."""
    with host.submitted() as run_id:
        host.do("UPDATE runs SET gpu_class = 'elsewhere' WHERE run_id = %(run_id)s", run_id=run_id)
    host.wait_in(run_id, "capacity")
    return run_id


def _bring_back(host: Host, run_id: str) -> None:
    host.do("UPDATE runs SET gpu_class = 'cpu' WHERE run_id = %(run_id)s", run_id=run_id)


def _lose_seed(host: Host, run_id: str) -> None:
    host.do(
        "UPDATE run_documents SET plan = plan #- '{identity,seed}' WHERE run_id = %(run_id)s",
        run_id=run_id,
    )
