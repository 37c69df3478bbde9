"""The Celery applications: one sends rings, the other consumes them.

A message carries ids only and means "look at this row" (the database decides). So nothing here
needs a result backend, a retry or an ETA, and losing every message costs seconds.

Settings: Celery 5.7 documentation, "Configuration and defaults"; Redis transport options from
kombu 5.7, ``transport/redis.py``.
"""

from typing import Final

from celery import Celery
from kombu.entity import Exchange, Queue

VISIBILITY_TIMEOUT_S: Final = 900
"""An unacknowledged short task is delivered again after this; three times its hard limit."""

PUBLISH_CONNECT_TIMEOUT_S: Final = 2.0
"""With no retry a ring fails within 3 s when Redis is away."""

TRAINER_TASK: Final = "trainer.ring"
SHARD_TASK: Final = "cache.build"
ADMISSION_TASK: Final = "runs.admit"
DATASET_TASK: Final = "datasets.verify"
IMPORT_TASK: Final = "datasets.import"
PUBLICATION_TASK: Final = "publications.publish"

TRACE_HEADER: Final = "traceparent"
"""Of messages, W3C Trace Context: the trace that the handler goes on with."""

CACHE_QUEUE: Final = "cache"
CONTROL_QUEUE: Final = "control"
NOTIFY_QUEUE: Final = "notify"


def trainer_queue(gpu_class: str) -> str:
    """The queue that trainers with this class of GPU listen on."""
    return f"train.{gpu_class}"


def worker_queue(worker_id: str) -> str:
    """The queue that only this trainer listens on."""
    return f"train.{worker_id}"


def publisher_app(broker_url: str) -> Celery:
    """An app that only sends; every call on it fails fast when the broker is away."""
    app = _app(broker_url)
    app.conf.update(
        broker_connection_timeout=PUBLISH_CONNECT_TIMEOUT_S,
        broker_connection_retry=False,
        broker_connection_max_retries=0,
        broker_pool_limit=2,
        broker_pool_acquire_timeout=PUBLISH_CONNECT_TIMEOUT_S,
        task_publish_retry=False,
        broker_transport_options={
            "visibility_timeout": VISIBILITY_TIMEOUT_S,
            "socket_connect_timeout": PUBLISH_CONNECT_TIMEOUT_S,
            "socket_timeout": PUBLISH_CONNECT_TIMEOUT_S,
            "retry_on_timeout": False,
            "max_retries": 0,
            "interval_start": 0,
            "interval_step": 0,
            "interval_max": 0,
        },
    )
    return app


def worker_app(
    broker_url: str, queues: tuple[str, ...], *, acks_late: bool, threads: int
) -> Celery:
    """An app that handles ``threads`` messages of ``queues`` at a time and reconnects for ever.

    ``acks_late`` False is for training: the lease in PostgreSQL outlives the message, so an early
    acknowledgement loses nothing and a training of many hours never reaches a visibility timeout.
    """
    app = _app(broker_url)
    app.conf.update(
        task_queues=[queue_of(name) for name in queues],
        task_acks_late=acks_late,
        # The bound on repetition is the attempt counter in the database, not the broker.
        task_reject_on_worker_lost=acks_late,
        worker_prefetch_multiplier=1,
        # A busy worker leaves the next ring to an idle one.
        worker_disable_prefetch=True,
        worker_concurrency=threads,
        worker_consumer="services.queue.consumer:RingConsumer",
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
        worker_enable_remote_control=False,
        broker_connection_retry=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "visibility_timeout": VISIBILITY_TIMEOUT_S,
            "unacked_restore_interval": 15,
            "unacked_restore_throttle": 1,
            "socket_connect_timeout": 5.0,
            "socket_keepalive": True,
            "health_check_interval": 10,
        },
    )
    return app


def _app(broker_url: str) -> Celery:
    app = Celery("reverie", broker=broker_url, set_as_current=False)
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        task_create_missing_queues=True,
        result_backend=None,
        result_backend_transport_options={"visibility_timeout": VISIBILITY_TIMEOUT_S},
        visibility_timeout=VISIBILITY_TIMEOUT_S,
        enable_utc=True,
    )
    return app


def queue_of(name: str) -> Queue:
    """The queue of this name, as Celery declares it."""
    exchange = Exchange(name, type="direct")
    return Queue(name, exchange, routing_key=name)
