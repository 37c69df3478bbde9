"""Contents that an import may have stored, and that no file of its dataset has in the end.

A portion that is repeated may find other content at the same address, or none. What it declared
before keeps a row, so that whoever deletes the dataset, or completes it, deletes the content, too.
"""

from datetime import datetime
from typing import Final

from services.store.abandoned_uploads import Abandoned
from services.store.database import Connection

# Under a path that no file of a dataset has.
_SET_ASIDE: Final = """
INSERT INTO dataset_files (dataset_id, tenant_id, path, media, size_bytes, sha256)
SELECT old.dataset_id, old.tenant_id, '/' || old.sha256 || '/' || old.path, old.media,
    old.size_bytes, old.sha256
FROM dataset_files AS old JOIN json_array_elements(%(files)s::json) AS file
    ON old.path = file ->> 0
WHERE old.tenant_id = %(tenant_id)s AND old.dataset_id = %(dataset_id)s
    AND old.verified_by IS NULL AND old.sha256 <> file ->> 3
ON CONFLICT (dataset_id, path) DO NOTHING
"""


def set_aside(conn: Connection, tenant_id: str, dataset_id: str, files: str) -> None:
    """Keep rows of contents that these files are about to replace.

    ``files``: as JSON; path, kind, size and SHA-256 of each.
    """
    facts = {"tenant_id": tenant_id, "dataset_id": dataset_id, "files": files}
    conn.execute(_SET_ASIDE, facts)


_FIND: Final = """
SELECT clock_timestamp(), ARRAY(
    SELECT DISTINCT sha256 FROM dataset_files
    WHERE tenant_id = %(tenant_id)s AND dataset_id = %(dataset_id)s AND verified_by IS NULL
    EXCEPT
    SELECT sha256 FROM datasets JOIN dataset_files USING (dataset_id)
    WHERE datasets.tenant_id = %(tenant_id)s AND deleted_at IS NULL
        AND (dataset_id <> %(dataset_id)s OR verified_by IS NOT NULL))
"""


def find(conn: Connection, dataset: Abandoned) -> tuple[datetime, list[str]]:
    """Contents that were declared only, and are no other file's of the tenant; when that was so."""
    facts = {"tenant_id": dataset.tenant_id, "dataset_id": dataset.dataset_id}
    row = conn.execute(_FIND, facts).fetchone()
    assert row is not None
    return row[0], row[1]
