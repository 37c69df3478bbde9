"""GPU classes: the operator's price of an hour of each, and what a worker of each has.

A class that the operator named has a price, and 0 is one: its time is free.
"""

from dataclasses import dataclass
from typing import Final

from psycopg.rows import class_row
from psycopg.sql import SQL

from services.store.database import Connection, columns_of

_SET_PRICE: Final = """
INSERT INTO gpu_classes (gpu_class, price_micros_per_hour, currency)
VALUES (%(gpu_class)s, %(price)s, %(currency)s)
ON CONFLICT (gpu_class) DO UPDATE SET price_micros_per_hour = excluded.price_micros_per_hour,
    currency = excluded.currency
"""


def set_price(
    conn: Connection, gpu_class: str, *, price_micros_per_hour: int, currency: str
) -> None:
    """Set the price for attempts that start from now on."""
    facts = {"gpu_class": gpu_class, "price": price_micros_per_hour, "currency": currency}
    conn.execute(_SET_PRICE, facts)


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuClass:
    """One row of ``gpu_classes``."""

    gpu_class: str
    price_micros_per_hour: int
    """Of one GPU, in millionths of the currency."""
    currency: str
    """ISO 4217."""
    memory_bytes: int | None
    """Of one GPU; None: not known."""
    capability: str | None
    """Of the GPU, such as ``9.0``; None: not known."""


_ALL: Final = SQL("SELECT {columns} FROM gpu_classes ORDER BY gpu_class").format(
    columns=columns_of(GpuClass)
)


def all_classes(conn: Connection) -> list[GpuClass]:
    """The classes that operators set, by name; there are few."""
    with conn.cursor(row_factory=class_row(GpuClass)) as cursor:
        return cursor.execute(_ALL).fetchall()


_CURRENCIES: Final = "SELECT gpu_class, currency FROM gpu_classes"


def currencies(conn: Connection) -> dict[str, str]:
    """GPU class → currency of its price, an ISO 4217 code; classes without a price are left out."""
    return dict(conn.execute(_CURRENCIES).fetchall())


_SET_HARDWARE: Final = """
UPDATE gpu_classes SET memory_bytes = coalesce(%(memory_bytes)s, memory_bytes),
    capability = coalesce(%(capability)s, capability)
WHERE gpu_class = %(gpu_class)s
"""


def set_hardware(
    conn: Connection, gpu_class: str, *, memory_bytes: int | None, capability: str | None
) -> None:
    """Set what a worker of a class has that has a price; None leaves a value as it is."""
    facts = {"gpu_class": gpu_class, "memory_bytes": memory_bytes, "capability": capability}
    conn.execute(_SET_HARDWARE, facts)


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownClass:
    """A GPU class that workers or settings name."""

    gpu_class: str
    price_micros_per_hour: int | None
    """None: the operator set none."""
    currency: str | None
    memory_bytes: int | None
    """Of one GPU, or of the machine for the class ``cpu``; None: not known."""
    capability: str | None
    """Of the GPU, such as ``9.0``; None: not known, or no GPU."""


_KNOWN: Final = """
SELECT gpu_class, price_micros_per_hour, currency, memory_bytes, capability
FROM gpu_classes RIGHT JOIN (
    SELECT gpu_class FROM gpu_classes
    UNION SELECT gpu_class FROM workers WHERE kind = 'trainer'
    UNION SELECT %(own)s
) AS known USING (gpu_class)
ORDER BY gpu_class
"""


def known(conn: Connection, own: str) -> list[KnownClass]:
    """Every class that the operator named or that a worker has, and ``own``, by name."""
    with conn.cursor(row_factory=class_row(KnownClass)) as cursor:
        return cursor.execute(_KNOWN, {"own": own}).fetchall()


def find(conn: Connection, gpu_class: str) -> KnownClass:
    """One class; all is None of one that nobody named."""
    return next(each for each in known(conn, gpu_class) if each.gpu_class == gpu_class)
