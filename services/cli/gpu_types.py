"""`reverie gpu-types`: where runs train, and what an hour costs."""

import typer

from services.cli import output
from services.cli.connection import Invocation


def show(
    ctx: typer.Context,
    as_json: output.Json = False,
) -> None:
    """Show the GPU types of the service: memory, and the price of an hour."""
    invocation: Invocation = ctx.obj
    with invocation.connect() as client:
        types = client.list_gpu_types().data
    if as_json:
        output.print_json(types)
        return
    rows = [
        (
            each["id"],
            "-" if each["memory_bytes"] is None else output.size(each["memory_bytes"]),
            each["capability"] or "-",
            _price(each["price_micros_per_hour"], each["currency"]),
        )
        for each in types
    ]
    output.print_table(("GPU TYPE", "MEMORY", "CAPABILITY", "PRICE AN HOUR"), rows)


def _price(micros: int | None, currency: str | None) -> str:
    return "-" if micros is None else f"{micros / 1e6:,.2f} {currency}"
