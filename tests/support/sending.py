"""A tenant with webhooks, and what sends to them, in the process of the test."""

import multiprocessing
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any

from pydantic import SecretStr

from services.domain.webhooks import new_signing_secret
from services.results.webhooks.sender import Sender
from services.secrets.keys import new_private_key, parse_public, public_text
from services.secrets.opening import PrivateKeys
from services.secrets.sealing import seal
from services.store import webhook_deliveries, webhooks
from services.store.database import Database
from services.store.webhook_deliveries import Delivery
from services.store.webhooks import Seal, Webhook
from tests.support.runs import TenantDatabase

PRIVATE = new_private_key()
PUBLIC = parse_public(public_text(PRIVATE))
LOOPBACK = (ip_network("127.0.0.0/8"),)


def new_secret() -> tuple[str, Seal]:
    secret = new_signing_secret()
    return secret, lambda place: seal(SecretStr(secret), place, PUBLIC)


@dataclass(frozen=True, kw_only=True)
class Sending:
    """Everything of one tenant."""

    db: TenantDatabase

    @property
    def database(self) -> Database:
        return self.db.database

    def webhook(self, url: str, events: Sequence[str] | None = None) -> tuple[Webhook, str]:
        """A new webhook and its secret."""
        secret, seal_it = new_secret()
        with self.database.transaction() as conn:
            row = webhooks.create(conn, self.db.tenant_id, url=url, events=events, seal=seal_it)
        return row, secret

    def test(self, webhook: Webhook, number: int = 1) -> list[str]:
        """Have events sent that tell nothing; returns their ids."""
        with self.database.transaction() as conn:
            return [webhook_deliveries.test(conn, webhook).event_id for _ in range(number)]

    def now(self, webhook: Webhook) -> Webhook:
        with self.database.transaction() as conn:
            return webhooks.get(conn, self.db.tenant_id, webhook.webhook_id)

    def deliveries(self, webhook: Webhook) -> list[Delivery]:
        """Oldest first."""
        with self.database.transaction() as conn:
            found = webhook_deliveries.list_page(
                conn, self.db.tenant_id, webhook.webhook_id, limit=1000
            )
        return list(found)[::-1]

    def delivery(self, webhook: Webhook) -> Delivery:
        """The only one."""
        (found,) = self.deliveries(webhook)
        return found

    def make_due(self) -> None:
        """What waits for its next try waits no longer."""
        self.do("UPDATE webhook_deliveries SET due_at = clock_timestamp() WHERE due_at IS NOT NULL")

    def do(self, statement: str, *facts: Any) -> None:
        with self.database.transaction() as conn:
            conn.execute(statement.encode(), facts)

    def send(self, *, timeout_s: float = 15, until: threading.Event | None = None) -> list[str]:
        """Send what is due until nothing is; returns the outcomes of the tries.

        Args:
            timeout_s: of a try.
            until: begin nothing new when it is set.
        """
        ours, theirs = multiprocessing.Pipe(duplex=False)
        sender = Sender(
            database=self.database,
            keys=PrivateKeys.parse(PRIVATE),
            allowed=LOOPBACK,
            outcomes=theirs,
            said=threading.Lock(),
            linger_s=0.05,
            timeout_s=timeout_s,
        )
        sender.work(until or threading.Event())
        theirs.close()
        outcomes = []
        while ours.poll():
            try:
                outcomes.append(ours.recv_bytes().decode())
            except EOFError:
                break
        return outcomes
