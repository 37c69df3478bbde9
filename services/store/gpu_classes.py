"""GPU classes: the operator's price of an hour of each."""

from typing import Final

from services.store.database import Connection

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


_CURRENCIES: Final = "SELECT gpu_class, currency FROM gpu_classes"


def currencies(conn: Connection) -> dict[str, str]:
    """GPU class → currency of its price, an ISO 4217 code; classes without a price are left out."""
    return dict(conn.execute(_CURRENCIES).fetchall())
