"""``/me``, ``/keys`` and ``/users``. Whose keys: those of whom the request is for; an administrator names
somebody else with the header ``Nsbox-User``."""

from __future__ import annotations

import time

from quart import Response
from quart_trio import QuartTrio

from nsbox.api import answers, parameters, schema, views
from nsbox.api.account_schema import ChangeUser, MakeKey, MakeUser
from nsbox.api.middleware import BASE
from nsbox.api.routing import call, reply
from nsbox.api.services import Services
from nsbox.model.account import UNLIMITED, KeyRecord, User
from nsbox.model.errors import Code, Problem
from nsbox.model.plan import Plan, Use

_KEY = schema.Reader(MakeKey)
_USER = schema.Reader(MakeUser)
_CHANGE = schema.Reader(ChangeUser)
_NONE: frozenset[str] = frozenset()
_ALL = parameters.names((parameters.ALL_KEYS,))


def add(app: QuartTrio, services: Services, default_plan: str = UNLIMITED) -> None:
    """Add the routes. ``default_plan`` is that of users for whom nobody chose one."""
    accounts, plans = services.accounts, services.plans

    def shown(user: User) -> answers.UserView:
        return _user(user, user.plan or default_plan)

    async def me() -> Response:
        caller = call(_NONE).caller
        plan, use = await plans.of(caller.owner)
        view: answers.MeView = {
            "user": shown(caller.subject),
            "key": _key(caller.key),
            "plan": _plan(plan),
            "usage": _use(use),
        }
        return reply(view)

    async def get_keys() -> Response:
        asked = call(_ALL)
        everybody = parameters.ALL_KEYS.of(asked.query)
        if everybody and not asked.caller.may_act_for_others:
            raise Problem(
                Code.FORBIDDEN, "the keys of all take a key with the scope admin", field="all", scope="admin"
            )
        found = await accounts.keys(None if everybody else asked.owner)
        return reply(answers.KeysView(keys=[_key(record) for record in found]))

    async def make_key() -> Response:
        asked = call(_NONE)
        record, plaintext = await accounts.make_key(asked.caller, _KEY.read(asked.body).wish(time.time()))
        return reply(answers.MadeKeyView(**_key(record), key=plaintext), 201)

    async def revoke_key(key_id: str) -> Response:
        return reply(_key(await accounts.revoke_key(call(_NONE).caller, key_id)))

    async def get_users() -> Response:
        call(_NONE)
        return reply(answers.UsersView(users=[shown(user) for user in await accounts.users()]))

    async def add_user() -> Response:
        wish = _USER.read(call(_NONE).body)
        wish.check()
        plans.check_name(wish.plan)
        user = await accounts.add_user(wish.name, wish.role, wish.plan)
        return reply(shown(user), 201, location=f"{BASE}/users/{user.id}")

    async def get_user(user_id: str) -> Response:
        call(_NONE)
        return reply(shown(await accounts.user(user_id)))

    async def change_user(user_id: str) -> Response:
        change = _CHANGE.read(call(_NONE).body).change()
        plans.check_name(change.plan or "")
        return reply(shown(await accounts.change_user(user_id, change)))

    async def remove_user(user_id: str) -> Response:
        call(_NONE)
        user = await accounts.remove_user(user_id)
        return reply(answers.RemovedUserView(id=user.id, removed=True))

    app.add_url_rule(f"{BASE}/me", "me", me, methods=["GET"])
    app.add_url_rule(f"{BASE}/keys", "list_keys", get_keys, methods=["GET"])
    app.add_url_rule(f"{BASE}/keys", "make_key", make_key, methods=["POST"])
    app.add_url_rule(f"{BASE}/keys/<key_id>", "revoke_key", revoke_key, methods=["DELETE"])
    app.add_url_rule(f"{BASE}/users", "list_users", get_users, methods=["GET"])
    app.add_url_rule(f"{BASE}/users", "add_user", add_user, methods=["POST"])
    app.add_url_rule(f"{BASE}/users/<user_id>", "get_user", get_user, methods=["GET"])
    app.add_url_rule(f"{BASE}/users/<user_id>", "change_user", change_user, methods=["PATCH"])
    app.add_url_rule(f"{BASE}/users/<user_id>", "remove_user", remove_user, methods=["DELETE"])


def _user(user: User, plan: str) -> answers.UserView:
    return {
        "id": user.id,
        "name": user.name,
        "role": user.role,
        "plan": plan,
        "createdAt": views.iso(user.created_at),
        "disabled": user.disabled_at is not None,
    }


def _key(record: KeyRecord) -> answers.KeyView:
    """Everything but the key itself, which is known to nobody here."""
    return {
        "id": record.id,
        "name": record.name,
        "prefix": record.prefix,
        "userId": record.owner,
        "scopes": list(record.scopes),
        "createdAt": views.iso(record.created_at),
        "expiresAt": _iso(record.expires_at),
        "lastUsedAt": _iso(record.last_used_at),
        "revokedAt": _iso(record.revoked_at),
    }


def _plan(plan: Plan) -> answers.PlanView:
    return {
        "name": plan.name,
        "computeSecondsPerMonth": plan.compute_seconds_per_month,
        "vcpus": plan.vcpus,
        "memoryMb": plan.memory_mb,
        "storageMb": plan.storage_mb,
        "timeoutMs": plan.timeout_ms,
        "sandboxes": plan.sandboxes,
    }


def _use(use: Use) -> answers.UseView:
    return {
        "periodStart": views.iso(use.period_start),
        "periodEnd": views.iso(use.period_end),
        "computeSeconds": use.compute_seconds,
        "computeSecondsLimit": use.compute_seconds_limit,
    }


def _iso(at: float | None) -> str | None:
    return None if at is None else views.iso(at)
