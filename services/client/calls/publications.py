"""Publications of results."""

from services.client.call import Call, get, page, part, post
from services.client.publication_shapes import Publication, PublicationRequest
from services.client.shapes import Page


def create_publication(request: PublicationRequest) -> Call[Publication]:
    """Publish a run's result again."""
    return post("/v1/publications", request)


def list_publications(
    *, run_id: str | None = None, limit: int = 20, after: str | None = None
) -> Call[Page[Publication]]:
    """Newest first, of one run or of all."""
    return page("/v1/publications", {"run_id": run_id, "limit": limit, "after": after})


def get_publication(publication_id: str) -> Call[Publication]:
    """How far a publication is, and where it is."""
    return get(f"/v1/publications/{part(publication_id)}")
