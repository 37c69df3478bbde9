"""The numbers that training reports with its steps, reduced to a curve of few points."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from psycopg.rows import class_row
from psycopg.sql import SQL

from services.store.database import Connection

MOST_EVENTS: Final = 50_000
"""That a request reads; of a longer run every second event or fewer are looked at."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bin:
    """One metric over consecutive steps."""

    name: str
    first_step: int
    last_step: int
    count: int
    """Steps that have a finite value; without one the next three are None."""
    mean: float | None
    min: float | None
    max: float | None


_NAMES: Final = """
SELECT DISTINCT key FROM (
    SELECT data FROM events
    WHERE tenant_id = %(tenant_id)s AND run_id = %(run_id)s AND seq > %(newest)s - 1000
        AND type = 'step'
    ORDER BY seq DESC LIMIT 20
) AS newest CROSS JOIN LATERAL jsonb_each(data)
WHERE jsonb_typeof(value) = 'number' ORDER BY key
"""


def names(conn: Connection, tenant_id: str, run_id: str, *, newest_seq: int) -> list[str]:
    """The metrics that the run reports with its newest steps; ``newest_seq``: its last event."""
    facts = {"tenant_id": tenant_id, "run_id": run_id, "newest": newest_seq}
    return [row[0] for row in conn.execute(_NAMES, facts)]


def stride(newest_seq: int) -> int:
    """Of how many events one is looked at."""
    return -(-newest_seq // MOST_EVENTS) or 1


# Steps after the checkpoint that a later attempt started from were lost, and are not counted. Where
# that checkpoint was damaged, the attempt repeats steps before it, too; the later one counts.
_LINEAGE: Final = SQL("""
lineage AS (
    SELECT fence, min(from_step) OVER (
        ORDER BY fence ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING) AS until_step
    FROM attempts WHERE tenant_id = %(tenant_id)s AND run_id = %(run_id)s
)
""")
# A number beyond 1e100 counts as infinite: sums of such numbers overflow.
_NUMBER: Final = SQL("""
CASE WHEN jsonb_typeof(data->name) = 'number' AND abs((data->name)::numeric) < 1e100
    THEN (data->name)::float8 END
""")
_BINS: Final = SQL("""
WITH {lineage}, steps AS (
    SELECT DISTINCT ON (step) step, data
    FROM generate_series(%(stride)s::bigint, %(newest)s::bigint, %(stride)s::bigint) AS looked (at)
    CROSS JOIN LATERAL (
        SELECT step, fence, seq, data FROM events
        WHERE tenant_id = %(tenant_id)s AND run_id = %(run_id)s AND events.seq = at
            AND type = 'step'
    ) AS reported LEFT JOIN lineage USING (fence)
    WHERE until_step IS NULL OR step <= until_step
    ORDER BY step, fence DESC, seq DESC
), sized AS (
    SELECT step, data, greatest(1, (max(step) OVER () + %(points)s - 1) / %(points)s) AS width
    FROM steps
)
SELECT name, min(step) AS first_step, max(step) AS last_step, count(number) AS count,
    avg(number) AS mean, min(number) AS min, max(number) AS max
FROM sized CROSS JOIN unnest(%(names)s::text[]) WITH ORDINALITY AS wanted (name, place)
CROSS JOIN LATERAL (
    SELECT {number} AS number
) AS one
GROUP BY place, name, (step - 1) / width ORDER BY place, first_step
""").format(lineage=_LINEAGE, number=_NUMBER)


def bins(
    conn: Connection,
    tenant_id: str,
    run_id: str,
    wanted: Sequence[str],
    *,
    newest_seq: int,
    points: int,
) -> list[Bin]:
    """The metrics in this order, each in at most ``points`` bins of equally many steps.

    Every step counts once: as the attempt took it whose weights the run goes on with.
    """
    facts = {
        "tenant_id": tenant_id,
        "run_id": run_id,
        "names": list(wanted),
        "newest": newest_seq,
        "stride": stride(newest_seq),
        "points": points,
    }
    with conn.cursor(row_factory=class_row(Bin)) as cursor:
        return cursor.execute(_BINS, facts).fetchall()


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationLoss:
    """One measurement; None stands for a number that is not finite, or not known."""

    step: int
    mean: float | None
    low: float | None
    """Ends of the 95 % confidence interval of the mean."""
    high: float | None


MOST_EVALUATIONS: Final = 1000
# What was measured of lost steps does not count, and of a step the later one does.
_EVALUATIONS: Final = SQL("""
WITH {lineage}, measured AS (
    SELECT DISTINCT ON (step) step, data FROM events LEFT JOIN lineage USING (fence)
    WHERE tenant_id = %(tenant_id)s AND run_id = %(run_id)s AND type = 'eval'
        AND data->>'name' = 'evaluation' AND (until_step IS NULL OR step <= until_step)
    ORDER BY step DESC, fence DESC, seq DESC LIMIT %(limit)s
), numbers AS (
    SELECT step, name, {number} AS number
    FROM measured CROSS JOIN unnest('{{mean,low,high}}'::text[]) AS wanted (name)
)
SELECT step, max(number) FILTER (WHERE name = 'mean') AS mean,
    max(number) FILTER (WHERE name = 'low') AS low,
    max(number) FILTER (WHERE name = 'high') AS high
FROM numbers GROUP BY step ORDER BY step
""").format(lineage=_LINEAGE, number=_NUMBER)


def evaluations(
    conn: Connection, tenant_id: str, run_id: str, *, limit: int = MOST_EVALUATIONS
) -> list[EvaluationLoss]:
    """The evaluation losses of the steps that the run goes on from, in order of steps.

    ``limit``: of the newest ones.
    """
    facts = {"tenant_id": tenant_id, "run_id": run_id, "limit": limit}
    with conn.cursor(row_factory=class_row(EvaluationLoss)) as cursor:
        return cursor.execute(_EVALUATIONS, facts).fetchall()


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipScores:
    """CLIP scores of the pictures of a step that show the same weights."""

    step: int
    weights: str
    """``trained``, ``ema`` or ``base``."""
    mean: float | None
    """None, as the next two, stands for a number that is not finite."""
    min: float | None
    max: float | None
    similarity_mean: float | None
    """To the nearest training picture; None where that was not measured."""


_CLIP_SCORES: Final = SQL("""
WITH {lineage}, measured AS (
    SELECT DISTINCT ON (step, weights) step, weights, data
    FROM events CROSS JOIN LATERAL (SELECT data->>'weights' AS weights) AS shown
    LEFT JOIN lineage USING (fence)
    WHERE tenant_id = %(tenant_id)s AND run_id = %(run_id)s AND type = 'eval'
        AND data->>'name' = 'clip' AND weights IN ('trained', 'ema', 'base')
        AND (until_step IS NULL OR step <= until_step)
    ORDER BY step DESC, weights, fence DESC, seq DESC LIMIT %(limit)s
), numbers AS (
    SELECT step, weights, name, {number} AS number
    FROM measured CROSS JOIN unnest('{{mean,min,max,similarity_mean}}'::text[]) AS wanted (name)
)
SELECT step, weights, max(number) FILTER (WHERE name = 'mean') AS mean,
    max(number) FILTER (WHERE name = 'min') AS min,
    max(number) FILTER (WHERE name = 'max') AS max,
    max(number) FILTER (WHERE name = 'similarity_mean') AS similarity_mean
FROM numbers GROUP BY step, weights ORDER BY step, weights
""").format(lineage=_LINEAGE, number=_NUMBER)


def clip_scores(
    conn: Connection, tenant_id: str, run_id: str, *, limit: int = MOST_EVALUATIONS
) -> list[ClipScores]:
    """The CLIP scores of the steps that the run goes on from, in order of steps and weights.

    ``limit``: of the newest ones.
    """
    facts = {"tenant_id": tenant_id, "run_id": run_id, "limit": limit}
    with conn.cursor(row_factory=class_row(ClipScores)) as cursor:
        return cursor.execute(_CLIP_SCORES, facts).fetchall()
