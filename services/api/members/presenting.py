"""Rows of members as the shapes that tenants see."""

from services.api.members.shapes import Member
from services.api.shapes import in_utc
from services.store.members import Member as MemberRow


def member_shape(row: MemberRow) -> Member:
    return Member(
        id=row.member_id,
        name=row.name,
        role=row.role,
        links={"self": f"/v1/members/{row.member_id}"},
        created_at=in_utc(row.created_at),
    )
