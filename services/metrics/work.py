"""Metrics of the workers: attempts, uploads, verification, shards and publications."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

_LONG_BUCKETS: Final = (1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 14400, 43200)

attempts: Final = Counter(
    "reverie_attempts_total",
    "Attempts that this trainer ended, by the code of their end: finished, stopped, given_up, or"
    " the code of the failure.",
    ["end"],
)
attempts_running: Final = Gauge(
    "reverie_attempts_running",
    "Attempts that this trainer holds now: 0 or 1.",
    multiprocess_mode="max",
)
stage_seconds: Final = Histogram(
    "reverie_attempt_stage_seconds",
    "Time that an attempt spent in one stage, as the training process names it.",
    ["stage"],
    buckets=_LONG_BUCKETS,
)
steps: Final = Counter("reverie_steps_total", "Optimizer steps that were reported.")
uploads_in_flight: Final = Gauge(
    "reverie_uploads_in_flight",
    "Checkpoints and results that are being uploaded.",
    multiprocess_mode="max",
)
upload_seconds: Final = Histogram(
    "reverie_upload_seconds",
    "Time to upload a checkpoint, a result or a picture.",
    ["kind"],
    buckets=_LONG_BUCKETS,
)
upload_bytes: Final = Counter(
    "reverie_upload_bytes_total",
    "Bytes of checkpoints, results and pictures that were uploaded.",
    ["kind"],
)
shards: Final = Counter(
    "reverie_shards_total",
    "Builds of cache shards by kind and outcome: built, or the code of the failure.",
    ["kind", "outcome"],
)
shard_seconds: Final = Histogram(
    "reverie_shard_build_seconds",
    "Time to build and store one cache shard.",
    ["kind"],
    buckets=_LONG_BUCKETS,
)
verifications: Final = Counter(
    "reverie_verifications_total",
    "Tasks that verified files of a dataset, by outcome: verified, postponed, failed.",
    ["outcome"],
)
indexer_deaths: Final = Counter(
    "reverie_indexer_deaths_total",
    "Times that the process beside this cache builder, which admits runs, ended by itself.",
)
publications: Final = Counter(
    "reverie_publications_total",
    "Tries to publish a result, by outcome: succeeded, or the code of the failure.",
    ["outcome"],
)
relays: Final = Counter(
    "reverie_relays_total",
    "Tries to relay a run's metrics, by outcome: succeeded, or the code of the failure.",
    ["outcome"],
)
webhook_tries: Final = Counter(
    "reverie_webhook_tries_total",
    "Tries to send an event to a webhook, by outcome: succeeded, refused (it answered something "
    "else than 2xx), or why there was no answer.",
    ["outcome"],
)
objects_swept: Final = Counter(
    "reverie_objects_swept_total", "Objects that were deleted because no row references them."
)
rings_dropped: Final = Counter(
    "reverie_rings_dropped_total", "Messages that could not be used, by reason.", ["reason"]
)
