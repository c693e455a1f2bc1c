"""What scopes allow, as rules."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nsbox.model.account import DEFAULT_SCOPES, OWN_AREAS, Caller, Grant, KeyRecord, Role, Scope, User, grants

SCOPES = st.frozensets(st.sampled_from(Scope))
ROLES = st.sampled_from(Role)


@given(SCOPES, ROLES)
def test_read_only_never_gives(scopes: frozenset[Scope], role: Role) -> None:
    narrowed = grants(scopes | {Scope.READ_ONLY}, role)
    assert not any(grant.changes for grant in narrowed)
    if scopes - {Scope.READ_ONLY}:
        assert narrowed <= grants(scopes, role)


@given(SCOPES, SCOPES, ROLES)
def test_each_area_gives_the_same_beside_any_other(
    one: frozenset[Scope], other: frozenset[Scope], role: Role
) -> None:
    one, other = one - {Scope.READ_ONLY}, other - {Scope.READ_ONLY}
    assert grants(one | other, role) == grants(one, role) | grants(other, role)


@given(SCOPES)
def test_a_lesser_role_never_has_more(scopes: frozenset[Scope]) -> None:
    assert grants(scopes, Role.USER) <= grants(scopes, Role.ADMIN)
    assert not any(grant.area is Scope.ADMIN for grant in grants(scopes, Role.USER))


@given(SCOPES, SCOPES)
def test_what_is_within_stays_within_whatever_the_role(
    mine: frozenset[Scope], wanted: frozenset[Scope]
) -> None:
    """The rule by which a key makes another looks at no role: it must hold for all that the user may get."""
    if grants(wanted) <= grants(mine):
        for role in Role:
            assert grants(wanted, role) <= grants(mine, role)


def test_by_hand() -> None:
    assert grants([]) == frozenset()
    assert grants([Scope.FILES]) == {Grant(Scope.FILES, False), Grant(Scope.FILES, True)}
    assert grants([Scope.READ_ONLY]) == {Grant(area, False) for area in OWN_AREAS}
    assert grants([Scope.READ_ONLY, Scope.FILES]) == {Grant(Scope.FILES, False)}
    assert grants([Scope.READ_ONLY, Scope.ADMIN]) == {Grant(Scope.ADMIN, False)}
    assert grants([Scope.READ_ONLY, Scope.ADMIN], Role.USER) == frozenset()
    assert Scope.IMAGES not in DEFAULT_SCOPES[Role.USER]


def test_whose_things_are_meant() -> None:
    ann, bob = User(id="us_a", name="ann"), User(id="us_b", name="bob")
    key = KeyRecord(id="k", name="k", owner="us_a", hash=b"", prefix="", created_at=0, expires_at=10)
    caller = Caller(key=key, user=ann, grants=grants([Scope.ADMIN]))
    assert (caller.owner, caller.administers) == ("us_a", True)
    assert Caller(key=key, user=ann, grants=frozenset(), acting_for=bob).owner == "us_b"
    assert [key.in_force(now) for now in (9.99, 10, 11)] == [True, False, False]
