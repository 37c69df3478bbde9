"""GPU time: charged to attempts, runs and tenants, and the tenants' shares that follow from it."""

from datetime import timedelta
from typing import Final

from psycopg.rows import class_row
from psycopg.sql import SQL

from services.domain.fair_share import UNKNOWN_RUN_S, Share, limit_credit
from services.store.database import Connection, seconds
from services.store.run_rows import Run

# power() raises an error where its result is too small for a double, so the exponent is limited.
_REMAINING: Final = SQL("""
    power(0.5, least(100, extract(epoch FROM clock_timestamp() - tenant_usage.decayed_at)
        / %(half_life_s)s))""")

_START_METER: Final = """
UPDATE attempts SET charged_until = clock_timestamp()
WHERE run_id = %(run_id)s AND fence = %(fence)s AND charged_until IS NULL
"""


def start_meter(conn: Connection, run: Run) -> None:
    """Charge the current attempt from now on; no change where its meter is running."""
    conn.execute(_START_METER, {"run_id": run.run_id, "fence": run.fence})


# Cost is rounded from the attempt's total, so that many small charges add up to the same.
_CHARGE: Final = SQL("""
WITH charge AS (
    SELECT tenant_id, fence, coalesce(gpu_class, %(gpu_class)s) AS gpu_class, cost_micros,
        greatest(0, extract(epoch FROM
            least(clock_timestamp(), %(lease_until)s::timestamptz) - charged_until)) AS charged_s
    FROM attempts
    WHERE run_id = %(run_id)s AND fence = %(fence)s AND charged_until IS NOT NULL
), charged AS (
    UPDATE attempts SET charged_s = attempts.charged_s + charge.charged_s,
        cost_micros = round((attempts.charged_s + charge.charged_s) / 3600
            * price_micros_per_hour),
        charged_until = CASE WHEN %(goes_on)s THEN clock_timestamp() END
    FROM charge WHERE run_id = %(run_id)s AND attempts.fence = charge.fence
    RETURNING charge.tenant_id, charge.gpu_class, charge.charged_s,
        attempts.cost_micros - charge.cost_micros AS cost_micros
), run AS (
    UPDATE runs SET charged_s = runs.charged_s + charged.charged_s,
        cost_micros = runs.cost_micros + charged.cost_micros
    FROM charged WHERE run_id = %(run_id)s
), month AS (
    INSERT INTO monthly_usage AS usage (tenant_id, month, gpu_class, charged_s, cost_micros)
    SELECT tenant_id, date_trunc('month', clock_timestamp() AT TIME ZONE 'UTC'), gpu_class,
        charged_s, cost_micros FROM charged
    ON CONFLICT (tenant_id, month, gpu_class) DO UPDATE
        SET charged_s = usage.charged_s + excluded.charged_s,
            cost_micros = usage.cost_micros + excluded.cost_micros
)
INSERT INTO tenant_usage (tenant_id, gpu_class, decayed_s)
SELECT tenant_id, gpu_class, charged_s FROM charged
ON CONFLICT (tenant_id, gpu_class) DO UPDATE
    SET decayed_s = tenant_usage.decayed_s * {remaining} + excluded.decayed_s,
        decayed_at = clock_timestamp()
""").format(remaining=_REMAINING)


def charge(conn: Connection, run: Run, *, half_life: timedelta, goes_on: bool) -> None:
    """Charge the time since the last charge; nothing while the attempt's meter is off.

    The caller must have locked the run's row and checked the fence. Time after the end of the
    lease is not charged: without a lease the training process pauses.

    Args:
        goes_on: False stops the meter.
    """
    facts = {
        "run_id": run.run_id,
        "fence": run.fence,
        "gpu_class": run.gpu_class,
        "lease_until": run.lease_until,
        "goes_on": goes_on,
        "half_life_s": seconds(half_life),
    }
    conn.execute(_CHARGE, facts)


_AVERAGE: Final = """
UPDATE tenant_usage
SET mean_attempt_s = coalesce(mean_attempt_s + (charged_s - mean_attempt_s) / 5, charged_s)
FROM attempts
WHERE run_id = %(run_id)s AND fence = %(fence)s AND charged_s > 0
    AND tenant_usage.tenant_id = attempts.tenant_id
    AND tenant_usage.gpu_class = coalesce(attempts.gpu_class, %(gpu_class)s)
"""


def close_meter(conn: Connection, run: Run, *, half_life: timedelta) -> None:
    """Charge the rest of an attempt that is about to end."""
    charge(conn, run, half_life=half_life, goes_on=False)
    facts = {"run_id": run.run_id, "fence": run.fence, "gpu_class": run.gpu_class}
    conn.execute(_AVERAGE, facts)


# The expected length of a run is its tenant's average, else the average of the GPU class. What a
# held run is charged already is part of the tenant's use.
_SHARES: Final = SQL("""
WITH queued AS (
    SELECT tenant_id, bool_or((offered_until IS NULL OR offered_until <= clock_timestamp())
        AND (ring_after IS NULL OR ring_after <= clock_timestamp())) AS is_waiting
    FROM runs WHERE gpu_class = %(gpu_class)s AND status = 'queued' AND stage = 'capacity'
    GROUP BY tenant_id
), ahead AS (
    SELECT runs.tenant_id, coalesce(attempts.charged_s, 0) AS charged_s
    FROM runs LEFT JOIN attempts USING (run_id, fence)
    WHERE runs.gpu_class = %(gpu_class)s AND runs.lease_until IS NOT NULL
    UNION ALL
    SELECT tenant_id, 0 FROM runs
    WHERE gpu_class = %(gpu_class)s AND stage = 'capacity' AND offered_until > clock_timestamp()
), active AS (
    SELECT tenant_id FROM queued UNION SELECT tenant_id FROM ahead
), class AS (
    SELECT coalesce(avg(mean_attempt_s), %(unknown_run_s)s) AS run_s
    FROM tenant_usage WHERE gpu_class = %(gpu_class)s
), share AS (
    SELECT tenant_id, weight, coalesce(mean_attempt_s, class.run_s) AS run_s,
        coalesce(decayed_s * {remaining}, 0) AS decayed_s,
        coalesce(is_waiting, false) AS is_waiting, is_active IS NOT TRUE AS is_new
    FROM active JOIN tenants USING (tenant_id) CROSS JOIN class LEFT JOIN queued USING (tenant_id)
        LEFT JOIN (SELECT * FROM tenant_usage WHERE gpu_class = %(gpu_class)s) AS tenant_usage
        USING (tenant_id)
)
SELECT tenant_id, weight, run_s, is_waiting, is_new,
    decayed_s + coalesce(sum(greatest(0, run_s - ahead.charged_s)), 0) AS used_s
FROM share LEFT JOIN ahead USING (tenant_id)
GROUP BY tenant_id, weight, run_s, is_waiting, is_new, decayed_s
""").format(remaining=_REMAINING)
_LAST: Final = SQL("""
SELECT decayed_s * {remaining} / weight FROM tenant_usage JOIN tenants USING (tenant_id)
WHERE gpu_class = %(gpu_class)s ORDER BY decayed_at DESC LIMIT 1
""").format(remaining=_REMAINING)
_ENTER: Final = SQL("""
INSERT INTO tenant_usage (tenant_id, gpu_class, decayed_s, is_active)
VALUES (%(tenant_id)s, %(gpu_class)s, %(raised_s)s, true)
ON CONFLICT (tenant_id, gpu_class) DO UPDATE
    SET decayed_s = tenant_usage.decayed_s * {remaining} + excluded.decayed_s,
        decayed_at = clock_timestamp(), is_active = true
""").format(remaining=_REMAINING)
_LEAVE: Final = """
UPDATE tenant_usage SET is_active = false
WHERE gpu_class = %(gpu_class)s AND is_active AND tenant_id <> ALL(%(tenant_ids)s)
"""


def shares(conn: Connection, gpu_class: str, *, half_life: timedelta) -> list[Share]:
    """The use of each tenant that has a run of this GPU class, waiting or held.

    The use of a tenant that had none in the round before is raised where that is needed to limit
    its credit. One dispatcher at a time may do this.
    """
    facts = {
        "gpu_class": gpu_class,
        "half_life_s": seconds(half_life),
        "unknown_run_s": UNKNOWN_RUN_S,
    }
    with conn.cursor(row_factory=class_row(Share)) as cursor:
        found = cursor.execute(_SHARES, facts).fetchall()
    row = conn.execute(_LAST, facts).fetchone()
    limited = limit_credit(found, last_use=0.0 if row is None else row[0])
    for before, share in zip(found, limited, strict=True):
        if share.is_new:
            raised_s = share.used_s - before.used_s
            conn.execute(_ENTER, {**facts, "tenant_id": share.tenant_id, "raised_s": raised_s})
    conn.execute(_LEAVE, {**facts, "tenant_ids": [share.tenant_id for share in found]})
    return limited
