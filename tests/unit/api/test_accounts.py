"""``/me``, ``/keys`` and ``/users`` with a real record behind them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nsbox.model.account import Role, Scope, User
from nsbox.service import accounts as service
from nsbox.service.accounts import Accounts
from nsbox.store import users
from nsbox.store.database import Database, Synchronous
from nsbox.store.keyring import KeyRing
from nsbox.store.keys import KeyTable
from tests.unit.api.client import Answer, Server, running
from tests.unit.api.fakes import Fakes

LATER = "2999-01-01T00:00:00.000Z"


class House:
    """A server, the record behind it, and its administrator."""

    def __init__(self, server: Server, table: KeyTable) -> None:
        self.server, self.table = server, table
        self.boss_key = table.create("boss")[1]
        self.boss = users.first_admin(table.connection)

    def tenant(self, name: str, scopes: tuple[Scope, ...] | None = None, **more: Any) -> tuple[User, str]:
        user = users.called(self.table.connection, name)
        return user, self.table.create(f"{name}'s", user, scopes, **more)[1]

    async def ask(self, key: str, method: str, target: str, body: Any = None, **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.server.ask(method, target, body, key=key, headers=named)

    async def make(self, key: str, **wish: Any) -> Answer:
        return await self.ask(key, "POST", "/keys", {"name": "new", **wish})


@asynccontextmanager
async def house(folder: Path) -> AsyncIterator[House]:
    state_dir = str(folder / "state")
    durable, ring = Database(state_dir, Synchronous.FULL), KeyRing(state_dir)
    fakes = Fakes()
    fakes.services = msgspec.structs.replace(fakes.services, keys=ring, accounts=Accounts(durable))
    try:
        with KeyTable(state_dir) as table:
            async with running(fakes=fakes) as server:
                yield House(server, table)
    finally:
        ring.close()
        durable.close()


async def test_me(tmp_path: Path) -> None:
    async with house(tmp_path) as ours:
        ann, key = ours.tenant("ann", (Scope.FILES,), expires_at=32_472_144_000.0)
        me = (await ours.ask(key, "GET", "/me")).json()
        assert me["user"] == {
            "id": ann.id, "name": "ann", "role": "user", "plan": "unlimited",
            "createdAt": me["user"]["createdAt"], "disabled": False,
        }  # fmt: skip
        assert me["key"]["scopes"] == ["files"]
        assert (me["key"]["userId"], me["key"]["expiresAt"]) == (ann.id, LATER)
        assert (me["key"]["revokedAt"], me["key"]["prefix"]) == (None, key[:12])
        assert (me["plan"]["name"], me["plan"]["computeSecondsPerMonth"]) == ("unlimited", None)
        assert me["plan"]["vcpus"] == 4
        assert (me["usage"]["computeSeconds"], me["usage"]["computeSecondsLimit"]) == (7, None)
        assert me["usage"]["periodStart"].endswith("-01T00:00:00.000Z")


async def test_a_key_is_shown_once_and_works_until_it_is_revoked(tmp_path: Path) -> None:
    async with house(tmp_path) as ours:
        ann, own = ours.tenant("ann")
        made = (await ours.make(own, scopes=["files"], expiresAt=LATER)).json()
        assert set(made) == {
            "id", "name", "prefix", "userId", "scopes",
            "createdAt", "expiresAt", "lastUsedAt", "revokedAt", "key",
        }  # fmt: skip
        assert (made["userId"], made["scopes"], made["expiresAt"]) == (ann.id, ["files"], LATER)
        assert (await ours.ask(made["key"], "GET", "/me")).status == 200
        listed = await ours.ask(own, "GET", "/keys")
        assert made["key"] not in listed.body.decode()
        assert [one["name"] for one in listed.json()["keys"]] == ["ann's", "new"]
        gone = await ours.ask(own, "DELETE", f"/keys/{made['id']}")
        assert (gone.status, gone.json()["revokedAt"] is not None) == (200, True)
        assert (await ours.ask(made["key"], "GET", "/me")).code == "invalid_key"
        assert (await ours.ask(own, "DELETE", f"/keys/{made['id']}")).json() == gone.json()


async def test_nobody_makes_a_key_that_may_more(tmp_path: Path) -> None:
    async with house(tmp_path) as ours:
        _, own = ours.tenant("ann", (Scope.FILES,), expires_at=32_472_144_000.0)
        for wish, field in (
            ({"scopes": ["sandboxes"]}, "scopes"),
            ({"scopes": ["files", "admin"]}, "scopes"),
            ({"scopes": ["read-only"]}, "scopes"),  # of all areas
            ({"expiresAt": "2999-01-01T00:00:00.001Z"}, "expiresAt"),
        ):
            answer = await ours.make(own, **wish)
            assert (answer.status, answer.code, answer.json()["field"]) == (403, "forbidden", field), wish
        for wish in ({}, {"scopes": ["files", "read-only"]}, {"expiresAt": LATER}):
            answer = await ours.make(own, **wish)
            assert (answer.status, answer.json()["expiresAt"]) == (201, LATER), wish
        assert (await ours.make(own)).json()["scopes"] == ["files"]
        looking = ours.tenant("ann", (Scope.FILES, Scope.READ_ONLY))[1]
        assert (await ours.make(looking)).status == 403
        assert (await ours.ask(looking, "GET", "/keys")).status == 200


async def test_what_is_wrong_with_a_wish(tmp_path: Path) -> None:
    async with house(tmp_path) as ours:
        for wish, field in (
            ({"name": ""}, "name"),
            ({"name": "a\nb"}, "name"),
            ({"scopes": []}, "scopes"),
            ({"scopes": ["all"]}, "scopes[0]"),
            ({"expiresAt": "tomorrow"}, "expiresAt"),
            ({"expiresAt": "2999-01-01"}, "expiresAt"),
            ({"expiresAt": "2001-01-01T00:00:00Z"}, "expiresAt"),
            ({"owner": "x"}, "owner"),
        ):
            answer = await ours.make(ours.boss_key, **wish)
            assert (answer.status, answer.code, answer.json()["field"]) == (422, "invalid_field", field), wish


async def test_keys_of_others_are_an_administrators(tmp_path: Path) -> None:
    async with house(tmp_path) as ours:
        ann, own = ours.tenant("ann")
        _, other = ours.tenant("bob")
        (hers,) = (await ours.ask(own, "GET", "/keys")).json()["keys"]
        stranger = await ours.ask(other, "DELETE", f"/keys/{hers['id']}")
        nothing = await ours.ask(other, "DELETE", "/keys/key_none")
        assert (stranger.status, stranger.code) == (nothing.status, nothing.code) == (404, "key_not_found")
        assert hers["id"] not in (await ours.ask(other, "GET", "/keys")).body.decode()
        assert (await ours.ask(other, "GET", "/keys?all=true")).status == 403
        assert hers in (await ours.ask(ours.boss_key, "GET", "/keys?all=true")).json()["keys"]
        assert (await ours.ask(ours.boss_key, "GET", "/keys", Nsbox_User=ann.id)).json()["keys"] == [hers]
        made = await ours.ask(ours.boss_key, "POST", "/keys", {"name": "gift"}, Nsbox_User=ann.id)
        assert (made.json()["userId"], made.json()["scopes"]) == (ann.id, ["sandboxes", "files"])
        wrong = await ours.ask(
            ours.boss_key, "POST", "/keys", {"name": "x", "scopes": ["admin"]}, Nsbox_User=ann.id
        )
        assert (wrong.status, wrong.json()["field"]) == (422, "scopes")
        assert (await ours.ask(ours.boss_key, "DELETE", f"/keys/{hers['id']}")).status == 200
        assert (await ours.ask(own, "GET", "/me")).status == 401


async def test_a_lesser_key_does_not_lock_out_its_user(tmp_path: Path) -> None:
    async with house(tmp_path) as ours:
        _, whole = ours.tenant("ann")
        _, narrow = ours.tenant("ann", (Scope.FILES,))
        first, second = (await ours.ask(whole, "GET", "/keys")).json()["keys"]
        assert (await ours.ask(narrow, "DELETE", f"/keys/{first['id']}")).code == "forbidden"
        assert (await ours.ask(narrow, "DELETE", f"/keys/{second['id']}")).status == 200
        assert (await ours.ask(whole, "GET", "/me")).status == 200


async def test_there_is_an_end_to_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "MAX_KEYS", 3)
    async with house(tmp_path) as ours:
        _, own = ours.tenant("ann")
        made = [await ours.make(own) for _ in range(3)]
        assert [one.status for one in made] == [201, 201, 429]
        assert made[2].code == "too_many_keys"
        await ours.ask(own, "DELETE", f"/keys/{made[0].json()['id']}")
        assert (await ours.make(own)).status == 201


async def test_users(tmp_path: Path) -> None:
    async with house(tmp_path) as ours:
        boss = ours.boss_key
        made = await ours.ask(boss, "POST", "/users", {"name": "ann"})
        ann = made.json()
        assert (made.status, made.headers["location"]) == (201, f"/api/v1/users/{ann['id']}")
        assert (ann["role"], ann["plan"], ann["disabled"]) == ("user", "unlimited", False)
        assert (await ours.ask(boss, "GET", f"/users/{ann['id']}")).json() == ann
        assert ann in (await ours.ask(boss, "GET", "/users")).json()["users"]
        taken = await ours.ask(boss, "POST", "/users", {"name": "ann"})
        assert (taken.status, taken.code, taken.json()["field"]) == (409, "name_taken", "name")
        one = f"/users/{ann['id']}"
        changed = await ours.ask(boss, "PATCH", one, {"name": "anna", "role": "admin", "plan": "pro"})
        assert changed.json() == {**ann, "name": "anna", "role": "admin", "plan": "pro"}
        assert (await ours.ask(boss, "PATCH", one, {"name": "admin"})).code == "name_taken"
        back = await ours.ask(boss, "PATCH", one, {"plan": ""})
        assert back.json()["plan"] == "unlimited", "the plan of all who have none"
        await ours.ask(boss, "PATCH", one, {"plan": "pro"})
        assert (await ours.ask(boss, "PATCH", one, {})).json() == changed.json()
        for wish, field in (({"plan": "No Plan"}, "plan"), ({"role": "god"}, "role"), ({"name": ""}, "name")):
            assert (await ours.ask(boss, "PATCH", one, wish)).json()["field"] == field
        gone = await ours.ask(boss, "DELETE", one)
        assert gone.json() == {"id": ann["id"], "removed": True}
        for method in ("GET", "PATCH", "DELETE"):
            assert (
                await ours.ask(boss, method, one, {} if method == "PATCH" else None)
            ).code == "user_not_found"


async def test_a_disabled_user_is_out_at_once_and_an_administrator_goes_on(tmp_path: Path) -> None:
    async with house(tmp_path) as ours:
        ann, own = ours.tenant("ann")
        assert (await ours.ask(own, "GET", "/me")).status == 200
        await ours.ask(ours.boss_key, "PATCH", f"/users/{ann.id}", {"disabled": True})
        assert (await ours.ask(own, "GET", "/me")).code == "invalid_key"
        assert (await ours.ask(ours.boss_key, "GET", "/sandboxes", Nsbox_User=ann.id)).status == 200
        await ours.ask(ours.boss_key, "PATCH", f"/users/{ann.id}", {"disabled": False})
        assert (await ours.ask(own, "GET", "/me")).status == 200


async def test_who_has_something_is_not_removed(tmp_path: Path) -> None:
    async with house(tmp_path) as ours:
        ann, own = ours.tenant("ann")
        ours.table.connection.execute(
            "INSERT INTO sandboxes VALUES ('sb_1', ?, 'paused', 1, NULL, 1, x'00')", (ann.id,)
        )
        ours.table.connection.execute("INSERT INTO snapshots VALUES ('sn_1', ?, 1, x'00')", (ann.id,))
        answer = await ours.ask(ours.boss_key, "DELETE", f"/users/{ann.id}")
        assert (answer.status, answer.code) == (409, "user_not_empty")
        assert (answer.json()["sandboxes"], answer.json()["snapshots"]) == (1, 1)
        assert (await ours.ask(own, "GET", "/me")).status == 200, "nothing has changed"
        ours.table.connection.execute("UPDATE sandboxes SET state = 'stopped'")
        ours.table.connection.execute("DELETE FROM snapshots")
        assert (await ours.ask(ours.boss_key, "DELETE", f"/users/{ann.id}")).status == 200
        assert (await ours.ask(own, "GET", "/me")).code == "invalid_key"


async def test_the_last_administrator_stays(tmp_path: Path) -> None:
    async with house(tmp_path) as ours:
        boss, one = ours.boss_key, f"/users/{ours.boss.id}"
        (key,) = (await ours.ask(boss, "GET", "/keys")).json()["keys"]
        # None of these can administer: read-only, another scope, expired by the role, another user's.
        ours.table.create("auditor", ours.boss, [Scope.ADMIN, Scope.READ_ONLY])
        ours.table.create("worker", ours.boss, [Scope.SANDBOXES])
        second = users.insert(ours.table.connection, "second", Role.ADMIN)
        for method, target, body in (
            ("DELETE", f"/keys/{key['id']}", None),
            ("DELETE", one, None),
            ("PATCH", one, {"disabled": True}),
            ("PATCH", one, {"role": "user"}),
        ):
            answer = await ours.ask(boss, method, target, body)
            assert (answer.status, answer.code) == (409, "last_admin"), (method, target, body)
        me = (await ours.ask(boss, "GET", "/me")).json()
        assert (me["user"]["role"], me["user"]["disabled"], me["key"]["revokedAt"]) == ("admin", False, None)
        ours.table.create("another", second)
        assert (await ours.ask(boss, "PATCH", one, {"role": "user"})).status == 200
        assert (await ours.ask(boss, "GET", "/users")).status == 403


async def test_a_key_that_was_revoked_meanwhile_makes_none(tmp_path: Path) -> None:
    """The request was let in; before its turn came, the key was revoked."""
    async with house(tmp_path) as ours:
        ann, own = ours.tenant("ann")
        ring = ours.server.fakes.services.keys
        caller = ring.find(own)
        assert caller is not None
        ours.table.revoke(caller.key.id)
        with pytest.raises(service.Problem, match="revoked"):
            await ours.server.fakes.services.accounts.make_key(caller, service.KeyWish(name="x"))
        assert len(ours.table.list(ann.id)) == 1


async def test_nothing_of_a_key_is_in_an_answer(tmp_path: Path) -> None:
    async with house(tmp_path) as ours:
        for target in ("/me", "/keys", "/keys?all=true", "/users"):
            body = (await ours.ask(ours.boss_key, "GET", target)).body.decode()
            assert ours.boss_key not in body
            assert "hash" not in json.dumps(json.loads(body))
