"""GPU classes: the operator's price of an hour of each."""

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


_ALL: Final = SQL("SELECT {columns} FROM gpu_classes ORDER BY gpu_class").format(
    columns=columns_of(GpuClass)
)


def all_classes(conn: Connection) -> list[GpuClass]:
    """The classes that have a price, by name; there are few."""
    with conn.cursor(row_factory=class_row(GpuClass)) as cursor:
        return cursor.execute(_ALL).fetchall()


_CURRENCIES: Final = "SELECT gpu_class, currency FROM gpu_classes"


def currencies(conn: Connection) -> dict[str, str]:
    """GPU class → currency of its price, an ISO 4217 code; classes without a price are left out."""
    return dict(conn.execute(_CURRENCIES).fetchall())
