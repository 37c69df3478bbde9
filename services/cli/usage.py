"""`reverie usage`: what the tenant used in each month, and what its quotas allow."""

from typing import TYPE_CHECKING, Annotated, Final

import typer

from services.cli import output
from services.cli.connection import Invocation
from trainer_core.in_words import duration

if TYPE_CHECKING:
    from services.client.tenant_shapes import Quota

EXAMPLE: Final = "Example: reverie usage --months 3"


def usage(
    ctx: typer.Context,
    months: Annotated[int, typer.Option(min=1, max=100, help="The newest months.")] = 12,
    as_json: output.Json = False,
) -> None:
    """Show GPU time and cost of each month by GPU class, and quotas with what is used of them."""
    invocation: Invocation = ctx.obj
    with invocation.connect() as client:
        page, quotas = client.list_usage(limit=months), client.list_quotas().data
    if as_json:
        output.print_json({"months": page.data, "quotas": quotas})
        return
    rows = [
        (
            month["id"],
            each["gpu_class"],
            duration(each["charged_s"]),
            _cost(each["cost_micros"], each["currency"]),
        )
        for month in page.data
        for each in month["gpu_classes"]
    ]
    output.print_table(("MONTH", "GPU CLASS", "CHARGED", "COST"), rows)
    print_quotas(quotas)


def print_quotas(quotas: list["Quota"]) -> None:
    """A table of limits with what is used of them."""
    rows = [
        (
            quota["id"],
            "" if quota["used"] is None else output.amount(quota["id"], quota["used"]),
            output.amount(quota["id"], quota["limit"]),
        )
        for quota in quotas
    ]
    output.print_table(("QUOTA", "USED", "LIMIT"), rows)


def _cost(cost_micros: int, currency: str | None) -> str:
    return "-" if currency is None else f"{cost_micros / 1e6:,.2f} {currency}"
