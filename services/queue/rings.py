"""Rings: messages that say that a row may have work. A lost ring is sent again later."""

from types import TracebackType
from typing import Final, Self

from kombu.exceptions import OperationalError

from services.metrics import dispatching as metrics
from services.queue import app as apps
from services.traces.spans import current_traceparent

_PROBE_KEY: Final = "reverie.probe"
_PROBE_S: Final = 60


class BrokerDownError(Exception):
    """The broker took no message. The row stays due, so log it and continue."""


class Rings:
    """Sends rings; safe to share among threads.

    Every method but ``is_up`` raises BrokerDownError within 3 s when the broker cannot be reached.
    """

    def __init__(self, broker_url: str) -> None:
        self._app = apps.publisher_app(broker_url)

    def trainer(self, gpu_class: str, run_id: str, worker_id: str | None = None) -> None:
        """A run may be claimable by this trainer; None: by any of this GPU class."""
        queue = apps.trainer_queue(gpu_class) if worker_id is None else apps.worker_queue(worker_id)
        self._ring(apps.TRAINER_TASK, queue, run_id)

    def forget_worker(self, worker_id: str) -> None:
        """Delete the queue of a trainer that is gone."""
        queue = apps.queue_of(apps.worker_queue(worker_id))
        with self._app.connection_for_write() as connection:
            try:
                bound = queue(connection.default_channel)
                bound.declare()  # only a queue that this connection knows can be deleted
                bound.delete()
            except (
                OperationalError,
                *connection.connection_errors,
                *connection.channel_errors,
            ) as error:
                raise BrokerDownError(f"a queue was not deleted: {type(error).__name__}") from error
        self._app.amqp.queues.pop(queue.name, None)

    def shard(self, tenant_id: str, digest: str) -> None:
        """A cache shard may be missing."""
        self._ring(apps.SHARD_TASK, apps.CACHE_QUEUE, tenant_id, digest)

    def admission(self, tenant_id: str, run_id: str) -> None:
        """A run may be waiting for admission."""
        self._ring(apps.ADMISSION_TASK, apps.CONTROL_QUEUE, tenant_id, run_id)

    def dataset(self, tenant_id: str, dataset_id: str) -> None:
        """The files of a dataset may be waiting for verification."""
        self._ring(apps.DATASET_TASK, apps.CACHE_QUEUE, tenant_id, dataset_id)

    def dataset_import(self, tenant_id: str, dataset_id: str) -> None:
        """Rows of a dataset's source may be waiting to be fetched."""
        self._ring(apps.IMPORT_TASK, apps.CONTROL_QUEUE, tenant_id, dataset_id)

    def publication(self, tenant_id: str, publication_id: str) -> None:
        """A publication may be due."""
        self._ring(apps.PUBLICATION_TASK, apps.NOTIFY_QUEUE, tenant_id, publication_id)

    def is_up(self) -> bool:
        """Whether the broker answers and takes a write, within 3 s; a full Redis answers only."""
        with self._app.connection_for_write() as connection:
            try:
                connection.default_channel.client.set(_PROBE_KEY, "1", ex=_PROBE_S)
            except (OperationalError, *connection.connection_errors, *connection.channel_errors):
                return False
        return True

    def close(self) -> None:
        """Drop the connections."""
        self._app.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _ring(self, task: str, queue: str, *ids: str) -> None:
        traceparent = current_traceparent()
        try:
            # No expiry: it would compare this machine's clock with the worker's.
            self._app.send_task(
                task,
                args=ids,
                queue=queue,
                retry=False,
                ignore_result=True,
                headers=None if traceparent is None else {apps.TRACE_HEADER: traceparent},
            )
        except (OperationalError, ConnectionError, TimeoutError) as error:
            metrics.rings.labels(task=task, outcome="failed").inc()
            raise BrokerDownError(
                f"the ring {task} was not sent: {type(error).__name__}"
            ) from error
        metrics.rings.labels(task=task, outcome="sent").inc()
