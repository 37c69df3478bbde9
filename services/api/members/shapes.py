"""Members of a tenant as JSON: requests and answers."""

from datetime import datetime
from typing import Literal

from services.api.shapes import LEFT_OUT, Body, Name, Shape
from services.domain.access import Role


class MemberRequest(Body):
    """A new member."""

    name: Name
    role: Role


class MemberChanges(Body):
    """What changes; the rest stays."""

    name: Name = LEFT_OUT
    role: Role = LEFT_OUT


class Member(Shape):
    """A person, or a program, who acts for the tenant with API keys of its own."""

    id: str
    object: Literal["member"] = "member"
    name: str
    role: Role
    links: dict[str, str]
    created_at: datetime
