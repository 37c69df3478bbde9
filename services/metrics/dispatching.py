"""Metrics of runs on their way: rounds of the dispatcher, rings, expired leases."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

_ROUND_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

round_seconds: Final = Histogram(
    "reverie_dispatcher_round_seconds",
    "Time of a whole round.",
    buckets=_ROUND_BUCKETS,
)
rounds: Final = Counter(
    "reverie_dispatcher_rounds_total",
    "Rounds by outcome: ok, database_down.",
    ["outcome"],
)
step_seconds: Final = Histogram(
    "reverie_dispatcher_step_seconds",
    "Time of one step of a round, such as sweep.",
    ["step"],
    buckets=_ROUND_BUCKETS,
)
step_errors: Final = Counter(
    "reverie_dispatcher_step_errors_total",
    "Steps that an error ended, by kind: busy, unexpected.",
    ["step", "kind"],
)
run_errors: Final = Counter(
    "reverie_dispatcher_run_errors_total",
    "Errors with one run, which was postponed or failed, by kind: busy, unexpected.",
    ["kind"],
)
leases_expired: Final = Counter(
    "reverie_leases_expired_total",
    "Attempts that were closed because their worker stopped renewing.",
)
rings: Final = Counter(
    "reverie_rings_total",
    "Celery messages by task and outcome: sent, failed.",
    ["task", "outcome"],
)
broker_up: Final = Gauge(
    "reverie_broker_up", "1 where Redis answers and takes a write.", multiprocess_mode="max"
)
