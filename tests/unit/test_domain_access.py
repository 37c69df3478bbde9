"""Roles and scopes: what a key may do follows from its member's role and from its own list."""

import pytest

from services.api.scopes import refusal
from services.domain.access import ROLES, SCOPES, SCOPES_OF, Actor, Role, scopes_of


def actor(role: Role, *listed: str) -> Actor:
    return Actor(
        tenant_id="ten_1",
        key_id="key_1",
        member_id="mem_1",
        role=role,
        listed=frozenset(listed) if listed else None,
    )


def test_an_owner_may_do_everything_and_every_role_has_scopes() -> None:
    assert SCOPES_OF.keys() == set(ROLES)
    assert SCOPES_OF["owner"] == set(SCOPES)
    for role in ROLES:
        assert SCOPES_OF[role] <= SCOPES_OF["owner"]


def test_only_an_owner_manages_members_secrets_and_the_tenant() -> None:
    for scope in ("members:write", "secrets:write", "audit:read", "tenant:write"):
        assert [role for role in ROLES if scope in SCOPES_OF[role]] == ["owner"], scope


def test_viewers_and_billing_change_nothing() -> None:
    for role in ("viewer", "billing"):
        assert not [scope for scope in SCOPES_OF[role] if scope.endswith(":write")]


def test_a_list_narrows_a_role_and_never_widens_it() -> None:
    assert scopes_of("member", None) == SCOPES_OF["member"]
    listed = frozenset({"runs:read", "members:write", "of:a-later-version"})
    assert scopes_of("owner", listed) == {"runs:read", "members:write"}
    assert scopes_of("member", listed) == {"runs:read"}
    assert scopes_of("owner", frozenset()) == set()


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (
            actor("viewer"),
            "the role viewer does not have. Ask an owner of the tenant for the role owner",
        ),
        (actor("viewer", "runs:write"), "the role viewer does not have"),
        (actor("owner", "runs:read"), "was made without. Use another key, or make one with it"),
    ],
)
def test_a_refusal_names_the_scope_and_the_way_out(key: Actor, words: str) -> None:
    refused = refusal(key, "runs:write")
    assert refused is not None
    assert "the scope runs:write" in str(refused)
    assert words in str(refused)
    assert refusal(actor("owner", "runs:write"), "runs:write") is None
