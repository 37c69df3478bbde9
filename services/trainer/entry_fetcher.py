"""Fetches cache entries of a held run from the object store, each checked."""

import threading
from collections import OrderedDict
from pathlib import Path
from typing import Final

import structlog

from services.domain.failures import ENTRY_MISSING
from services.domain.ledger import CachedShard
from services.objects.shards import ShardContents, get_contents, get_entry
from services.trainer.context import HeldRun
from services.trainer.failures import infra_failed
from services.trainer.intact import intact

log = structlog.get_logger(__name__)

_CONTENTS: Final = 1000
"""Of shards, which are kept in memory: about 100 kB each at most."""


class EntryFetcher:
    """The entries of a run in the shards of its claim; serves several threads."""

    def __init__(self, held: HeldRun, folder: Path) -> None:
        """``folder``: where entries are written."""
        self._held = held
        self._folder = folder
        self._shards = {digest: shard for shard in held.claim.shards for digest in shard.entries}
        self._contents: OrderedDict[str, ShardContents] = OrderedDict()
        """Of the shards that were read last."""
        self._reading = threading.Lock()
        self._rebuilding = threading.Lock()

    def size_bytes(self, digest: str) -> int:
        """Size of an entry's tensors; raises AttemptFailedError where no shard has it."""
        return self._shard_of(digest).entries[digest]

    def fetch(self, digest: str) -> None:
        """Write the entry into the folder, where it appears whole and checked.

        It is repeated while the store cannot be reached. A damaged shard ends the attempt, and is
        built again before the next one. Raises AttemptFailedError, NotWantedError, or OSError.
        """
        shard = self._shard_of(digest)

        def get() -> None:
            get_entry(self._held.context.objects, self._contents_of(shard), digest, self._folder)

        if not intact(get, self._held.lease, doing="fetch_entry"):
            with self._rebuilding:
                self._rebuild(shard)
            message = f"Cache shard {shard.digest} was damaged in the store; it is built again."
            raise infra_failed("shard_corrupt", message)

    def _shard_of(self, digest: str) -> CachedShard:
        shard = self._shards.get(digest)
        if shard is None:  # it was left out of a shard that was built again
            message = "A cache entry of the run is in none of its shards; its data is read again."
            raise infra_failed(ENTRY_MISSING, message)
        return shard

    def _contents_of(self, shard: CachedShard) -> ShardContents:
        with self._reading:
            found = self._contents.get(shard.digest)
        if found is None:
            objects, tenant_id = self._held.context.objects, self._held.claim.tenant_id
            found = get_contents(objects, tenant_id, shard)
        with self._reading:
            self._contents[shard.digest] = found
            self._contents.move_to_end(shard.digest)
            if len(self._contents) > _CONTENTS:
                self._contents.popitem(last=False)
        return found

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
