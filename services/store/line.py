"""The order in which a tenant's own runs go."""

from typing import Final

from psycopg.sql import SQL

ORDER: Final = SQL("""
    runs.created_at - runs.priority * make_interval(secs => %(aging_s)s), runs.run_id""")
"""A higher priority goes first, then the older run.

Waiting for ``aging_s`` counts as much as one class of priority, so every run is first in time.
"""
