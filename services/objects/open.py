"""Choose the object store by its URL."""

from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from services.objects.folder_store import FolderStore
from services.objects.port import ObjectStore
from services.objects.s3_store import S3Store
from services.objects.signing import UrlSigner
from services.settings.env import Settings, SettingsError


def open_store(settings: Settings) -> ObjectStore:
    """The store that REVERIE_OBJECTS_URL names; raises SettingsError for a URL of another kind.

    ``file:///absolute/folder`` (signs its URLs with REVERIE_SIGNING_KEY) or
    ``s3://bucket?endpoint=http://host:port&region=name`` (both optional; AWS's own without them).
    """
    parts = urlsplit(settings.objects_url)
    if parts.scheme == "file" and not parts.netloc and parts.path.startswith("/"):
        signer = UrlSigner(api_url=settings.api_url, signing_key=settings.signing_key)
        return FolderStore(Path(unquote(parts.path)), signer)
    if parts.scheme == "s3" and parts.netloc and not parts.path.strip("/"):
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        return S3Store(parts.netloc, endpoint=query.get("endpoint"), region=query.get("region"))
    raise SettingsError(
        "REVERIE_OBJECTS_URL is neither file:///absolute/folder nor s3://bucket?endpoint=…&region=…"
    )
