"""Operations on keys and users."""

from __future__ import annotations

from nsbox.api import answers, parameters
from nsbox.api.account_schema import ChangeUser, MakeKey, MakeUser
from nsbox.api.operations import examples
from nsbox.api.operations.declare import BASE, JSON_TYPE, Answer, Content, Operation, body_of, json_of
from nsbox.model.errors import Code

_USERS = f"{BASE}/users"
_USER = f"{_USERS}/{{userId}}"

OPERATIONS = (
    Operation(
        name="me",
        method="GET",
        path=f"{BASE}/me",
        tag="Accounts",
        summary="Who you are, and what you may use",
        answers=json_of(answers.MeView, "You.", examples.ME),
    ),
    Operation(
        name="list_keys",
        method="GET",
        path=f"{BASE}/keys",
        tag="Accounts",
        summary="Your keys",
        query=(parameters.ALL_KEYS,),
        answers=json_of(answers.KeysView, "The keys.", {"keys": [examples.KEY]}),
    ),
    Operation(
        name="make_key",
        method="POST",
        path=f"{BASE}/keys",
        tag="Accounts",
        summary="Make a key",
        text="It may do no more than the one that makes it, and lasts no longer.",
        body=body_of(MakeKey, {"name": "laptop", "scopes": ["sandboxes", "files"]}),
        answers=json_of(
            answers.MadeKeyView, "The key, told this once.", {**examples.KEY, "key": "nsbox_…"}, 201
        ),
        errors=(Code.TOO_MANY_KEYS,),
    ),
    Operation(
        name="revoke_key",
        method="DELETE",
        path=f"{BASE}/keys/{{keyId}}",
        tag="Accounts",
        summary="Revoke a key",
        answers=json_of(
            answers.KeyView,
            "It opens nothing any more.",
            {**examples.KEY, "revokedAt": "2026-11-25T18:00:00.000Z"},
        ),
        errors=(Code.KEY_NOT_FOUND, Code.LAST_ADMIN),
    ),
    Operation(
        name="usage",
        method="GET",
        path=f"{BASE}/usage",
        tag="Accounts",
        summary="What your sandboxes have cost",
        text="Seconds that they ran, by days (UTC). What runs is counted up to now.",
        query=parameters.USAGE,
        answers=(
            Answer(
                "What was counted.",
                (Content(JSON_TYPE, answers.UsageView, examples.USAGE), Content("text/csv")),
            ),
        ),
    ),
    Operation(
        name="audit",
        method="GET",
        path=f"{BASE}/audit",
        tag="Accounts",
        summary="Who did what, from where",
        text="What changed something, and keys that were refused. With the scope `admin` of all, else what "
        "you did and what was done for you.",
        query=parameters.AUDIT,
        answers=json_of(answers.AuditView, "The newest first.", {"events": [examples.AUDITED], "next": None}),
    ),
    Operation(
        name="list_users",
        method="GET",
        path=_USERS,
        tag="Accounts",
        summary="All users",
        answers=json_of(answers.UsersView, "The users.", {"users": [examples.USER]}),
    ),
    Operation(
        name="add_user",
        method="POST",
        path=_USERS,
        tag="Accounts",
        summary="Add a user",
        body=body_of(MakeUser, {"name": "ann"}),
        answers=json_of(answers.UserView, "The user.", examples.USER, 201, Location="Where it is looked at."),
        errors=(Code.NAME_TAKEN,),
    ),
    Operation(
        name="get_user",
        method="GET",
        path=_USER,
        tag="Accounts",
        summary="One user",
        answers=json_of(answers.UserView, "The user.", examples.USER),
    ),
    Operation(
        name="change_user",
        method="PATCH",
        path=_USER,
        tag="Accounts",
        summary="Change a user",
        text="What is not given stays.",
        body=body_of(ChangeUser, {"disabled": True}),
        answers=json_of(answers.UserView, "The user.", {**examples.USER, "disabled": True}),
        errors=(Code.NAME_TAKEN, Code.LAST_ADMIN),
    ),
    Operation(
        name="remove_user",
        method="DELETE",
        path=_USER,
        tag="Accounts",
        summary="Remove a user",
        answers=json_of(
            answers.RemovedUserView, "Gone, with the keys.", {"id": examples.USER_ID, "removed": True}
        ),
        errors=(Code.USER_NOT_EMPTY, Code.LAST_ADMIN),
    ),
)
