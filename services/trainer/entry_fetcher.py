"""Fetches cache entries of a held run from the object store, each checked."""

import threading
from pathlib import Path

import structlog

from services.domain.ledger import CachedShard
from services.objects.shards import ShardContents, get_contents, get_entry
from services.trainer.context import HeldRun
from services.trainer.failures import infra_failed
from services.trainer.intact import intact

log = structlog.get_logger(__name__)


class EntryFetcher:
    """The entries of a run in the shards of its claim; serves several threads."""

    def __init__(self, held: HeldRun, folder: Path) -> None:
        """``folder``: where entries are written."""
        self._held = held
        self._folder = folder
        self._shards = {digest: shard for shard in held.claim.shards for digest in shard.entries}
        self._contents: dict[str, ShardContents] = {}
        self._rebuilding = threading.Lock()

    def size_bytes(self, digest: str) -> int:
        """Size of an entry's tensors."""
        return self._shards[digest].entries[digest]

    def fetch(self, digest: str) -> None:
        """Write the entry into the folder, where it appears whole and checked.

        It is repeated while the store cannot be reached. A damaged shard ends the attempt, and is
        built again before the next one. Raises AttemptFailedError, NotWantedError, or OSError.
        """
        shard = self._shards[digest]

        def get() -> None:
            get_entry(self._held.context.objects, self._contents_of(shard), digest, self._folder)

        if not intact(get, self._held.lease, doing="fetch_entry"):
            with self._rebuilding:
                self._rebuild(shard)
            message = f"Cache shard {shard.digest} was damaged in the store; it is built again."
            raise infra_failed("shard_corrupt", message)

    def _contents_of(self, shard: CachedShard) -> ShardContents:
        if shard.digest not in self._contents:
            objects, tenant_id = self._held.context.objects, self._held.claim.tenant_id
            self._contents[shard.digest] = get_contents(objects, tenant_id, shard)
        return self._contents[shard.digest]

    def _rebuild(self, shard: CachedShard) -> None:
        held = self._held
        claim, context = held.claim, held.context
        is_first = held.lease.until_answered(
            lambda: context.ledger.rebuild_shard(claim.run_id, claim.fence, shard),
            doing="rebuild_shard",
        )
        if is_first:  # otherwise another has deleted it, and a new one may be there
            log.error("shard_damaged", digest=shard.digest)
            held.lease.until_answered(
                lambda: context.delete_shard(claim.tenant_id, shard), doing="delete_shard"
            )
