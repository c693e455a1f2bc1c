"""The tables of the record, and how an older record becomes one of today.

``PRAGMA user_version`` counts the migrations applied. A migration is never edited once released: a new
one is added below it.
"""

from __future__ import annotations

import sqlite3

from nsbox.model.errors import HostProblem

# Sandboxes: `body` is the whole record; the columns beside it exist to be searched and sorted by, and
# are written by the same statement, so the two cannot disagree.
# Keys: `key_changes` moves only when a key is made, revoked or deleted. Every write anywhere in the file
# moves `PRAGMA data_version`; the second counter spares the API re-reading all keys for each sandbox row.
_TABLES = """
CREATE TABLE sandboxes (
    id         TEXT PRIMARY KEY,
    owner      TEXT NOT NULL,
    state      TEXT NOT NULL,
    created_at REAL NOT NULL,
    ended_at   REAL,
    deadline   REAL NOT NULL,
    body       BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX sandboxes_by_owner ON sandboxes (owner, state, created_at);
CREATE INDEX sandboxes_by_state ON sandboxes (state);

CREATE TABLE keys (
    id           TEXT PRIMARY KEY,
    name         TEXT NOT NULL,
    owner        TEXT NOT NULL,
    hash         BLOB NOT NULL UNIQUE,
    prefix       TEXT NOT NULL,
    created_at   REAL NOT NULL,
    revoked_at   REAL,
    last_used_at REAL
) STRICT, WITHOUT ROWID;

CREATE TABLE key_changes (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), count INTEGER NOT NULL) STRICT;
INSERT INTO key_changes VALUES (1, 0);
CREATE TRIGGER key_made AFTER INSERT ON keys
    BEGIN UPDATE key_changes SET count = count + 1; END;
CREATE TRIGGER key_changed AFTER UPDATE OF name, owner, hash, revoked_at ON keys
    BEGIN UPDATE key_changes SET count = count + 1; END;
CREATE TRIGGER key_deleted AFTER DELETE ON keys
    BEGIN UPDATE key_changes SET count = count + 1; END;
"""

# Snapshots: few, and all of them are in memory while api runs, so `body` is enough.
_SNAPSHOTS = """
CREATE TABLE snapshots (
    id         TEXT PRIMARY KEY,
    owner      TEXT NOT NULL,
    created_at REAL NOT NULL,
    body       BLOB NOT NULL
) STRICT, WITHOUT ROWID;
"""

# Accounts: the owners of before were words; each becomes a user whose id stands wherever the word stood. The
# administrator is the owner of the first key, which is called `admin` unless somebody made keys before the
# first start. Everybody keeps what they could do. What the builder of templates owns is nobody's (its owner
# begins with a NUL). `json_set` takes text, and `body` is a BLOB of it. The table of keys is made anew: a
# reference to users cannot be added to one. A change of a user counts as one of keys: the API keeps both in
# memory.
_ACCOUNTS = """
CREATE TABLE users (
    id          TEXT PRIMARY KEY,
    name        TEXT NOT NULL UNIQUE,
    role        TEXT NOT NULL,
    plan        TEXT NOT NULL,
    created_at  REAL NOT NULL,
    disabled_at REAL
) STRICT, WITHOUT ROWID;
INSERT INTO users
    SELECT 'us_' || lower(hex(randomblob(16))), owner, 'user', '', min(created_at), NULL FROM (
        SELECT owner, created_at FROM keys
        UNION ALL SELECT owner, created_at FROM sandboxes
        UNION ALL SELECT owner, created_at FROM snapshots
    ) WHERE hex(owner) NOT LIKE '00%' GROUP BY owner;
UPDATE users SET role = 'admin' WHERE name = coalesce(
    (SELECT name FROM users WHERE name = 'admin'),
    (SELECT owner FROM keys ORDER BY created_at, id LIMIT 1));

UPDATE sandboxes SET owner = users.id, body = CAST(json_set(CAST(body AS TEXT), '$.owner', users.id) AS BLOB)
    FROM users WHERE users.name = sandboxes.owner;
UPDATE snapshots SET owner = users.id, body = CAST(json_set(CAST(body AS TEXT), '$.owner', users.id) AS BLOB)
    FROM users WHERE users.name = snapshots.owner;

CREATE TABLE keys_of_users (
    id           TEXT PRIMARY KEY,
    name         TEXT NOT NULL,
    owner        TEXT NOT NULL REFERENCES users (id),
    hash         BLOB NOT NULL UNIQUE,
    prefix       TEXT NOT NULL,
    created_at   REAL NOT NULL,
    revoked_at   REAL,
    last_used_at REAL,
    scopes       TEXT NOT NULL,
    expires_at   REAL
) STRICT, WITHOUT ROWID;
INSERT INTO keys_of_users
    SELECT keys.id, keys.name, users.id, hash, prefix, keys.created_at, revoked_at, last_used_at,
        CASE role WHEN 'admin' THEN 'sandboxes files images admin' ELSE 'sandboxes files' END, NULL
    FROM keys JOIN users ON users.name = keys.owner;
DROP TABLE keys;
ALTER TABLE keys_of_users RENAME TO keys;
CREATE INDEX keys_by_owner ON keys (owner);

CREATE TRIGGER key_made AFTER INSERT ON keys
    BEGIN UPDATE key_changes SET count = count + 1; END;
CREATE TRIGGER key_changed AFTER UPDATE OF name, owner, hash, revoked_at, scopes, expires_at ON keys
    BEGIN UPDATE key_changes SET count = count + 1; END;
CREATE TRIGGER key_deleted AFTER DELETE ON keys
    BEGIN UPDATE key_changes SET count = count + 1; END;
CREATE TRIGGER user_made AFTER INSERT ON users
    BEGIN UPDATE key_changes SET count = count + 1; END;
CREATE TRIGGER user_changed AFTER UPDATE ON users
    BEGIN UPDATE key_changes SET count = count + 1; END;
CREATE TRIGGER user_deleted AFTER DELETE ON users
    BEGIN UPDATE key_changes SET count = count + 1; END;
"""

# The ledger is only ever added to. An INSERT OR REPLACE deletes without a word to triggers of deletion, but
# with `recursive_triggers` on (https://www.sqlite.org/lang_createtrigger.html), hence the third one; a new
# entry gets its number after that trigger, and has -1 in it. Times are integers: microseconds. `pulse` and
# the tables of usage are no part of it: the latter are what it adds up to, and can be made from it anew.
_LEDGER = """
CREATE TABLE ledger (
    seq     INTEGER PRIMARY KEY,
    sandbox TEXT NOT NULL,
    owner   TEXT NOT NULL,
    key     TEXT NOT NULL,
    before  TEXT NOT NULL,
    after   TEXT NOT NULL,
    wall    INTEGER NOT NULL,
    boot    TEXT NOT NULL,
    ticks   INTEGER NOT NULL
) STRICT;
CREATE TRIGGER ledger_is_not_changed BEFORE UPDATE ON ledger
    BEGIN SELECT RAISE(ABORT, 'the ledger is only added to'); END;
CREATE TRIGGER ledger_is_not_shortened BEFORE DELETE ON ledger
    BEGIN SELECT RAISE(ABORT, 'the ledger is only added to'); END;
CREATE TRIGGER ledger_is_not_replaced BEFORE INSERT ON ledger
    WHEN EXISTS (SELECT 1 FROM ledger WHERE seq = NEW.seq)
    BEGIN SELECT RAISE(ABORT, 'the ledger is only added to'); END;

CREATE TABLE pulse (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    wall     INTEGER NOT NULL,
    boot     TEXT NOT NULL,
    ticks    INTEGER NOT NULL
) STRICT;

CREATE TABLE usage_folded (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    seq      INTEGER NOT NULL
) STRICT;
CREATE TABLE usage_meters (
    owner   TEXT NOT NULL,
    sandbox TEXT NOT NULL,
    key     TEXT NOT NULL,
    ran     INTEGER NOT NULL,
    wall    INTEGER,
    boot    TEXT,
    ticks   INTEGER,
    PRIMARY KEY (owner, sandbox)
) STRICT, WITHOUT ROWID;
CREATE TABLE usage_days (
    owner   TEXT NOT NULL,
    day     INTEGER NOT NULL,
    sandbox TEXT NOT NULL,
    key     TEXT NOT NULL,
    seconds INTEGER NOT NULL,
    PRIMARY KEY (owner, day, sandbox)
) STRICT, WITHOUT ROWID;
"""

# The audit log is only appended to, and SQLite holds whoever writes to that. What is older than `since` may
# go; that itself only moves on, and never to less than an hour ago.
_AUDIT = """
CREATE TABLE audit (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    at      REAL NOT NULL,
    action  TEXT NOT NULL,
    client  TEXT NOT NULL,
    outcome TEXT NOT NULL,
    status  INTEGER NOT NULL,
    user    TEXT,
    subject TEXT,
    key     TEXT,
    sandbox TEXT,
    target  TEXT,
    count   INTEGER NOT NULL
) STRICT;
CREATE INDEX audit_by_user ON audit (user, id);
CREATE INDEX audit_by_owner ON audit (ifnull(subject, user), id);
CREATE INDEX audit_by_sandbox ON audit (sandbox, id);

CREATE TABLE audit_kept (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), since REAL NOT NULL) STRICT;
INSERT INTO audit_kept VALUES (1, 0.0);
CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit
    BEGIN SELECT RAISE(ABORT, 'the audit log is only appended to'); END;
CREATE TRIGGER audit_is_kept BEFORE DELETE ON audit
    WHEN old.at >= (SELECT since FROM audit_kept)
    BEGIN SELECT RAISE(ABORT, 'the audit log is kept for longer'); END;
CREATE TRIGGER audit_is_not_replaced BEFORE INSERT ON audit
    WHEN EXISTS (SELECT 1 FROM audit WHERE id = new.id)
    BEGIN SELECT RAISE(ABORT, 'the audit log is only appended to'); END;
CREATE TRIGGER audit_kept_moves_on BEFORE UPDATE ON audit_kept
    WHEN new.since < old.since
        OR (new.since > old.since AND new.since > (julianday('now') - 2440587.5) * 86400.0 - 3600)
    BEGIN SELECT RAISE(ABORT, 'the last hour of the audit log is kept'); END;
CREATE TRIGGER audit_kept_is_there BEFORE DELETE ON audit_kept
    BEGIN SELECT RAISE(ABORT, 'the audit log is kept'); END;
"""

# What is still to be told to webhooks.
_DELIVERIES = """
CREATE TABLE deliveries (
    id    INTEGER PRIMARY KEY AUTOINCREMENT,
    hook  TEXT NOT NULL,
    event TEXT NOT NULL,
    body  BLOB NOT NULL,
    tries INTEGER NOT NULL,
    due   REAL NOT NULL
) STRICT;
CREATE INDEX deliveries_by_hook ON deliveries (hook, due, id);
"""

# What an Idempotency-Key has made is found by it. Bodies are blobs, and JSON functions take text.
_REQUESTS = """
ALTER TABLE sandboxes ADD COLUMN request_key TEXT;
UPDATE sandboxes SET request_key = json_extract(CAST(body AS TEXT), '$.request.key');
CREATE INDEX sandboxes_by_request ON sandboxes (owner, request_key) WHERE request_key IS NOT NULL;
"""

MIGRATIONS: tuple[str, ...] = (_TABLES, _SNAPSHOTS, _ACCOUNTS, _REQUESTS, _LEDGER, _AUDIT, _DELIVERIES)


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the record up to date. Success means ``user_version`` equals ``len(MIGRATIONS)``.

    Two processes may get here at once (``nsbox serve`` and ``nsbox keys``): the version is read again
    under the write lock, so that each migration runs once.
    """
    if _version(connection) == len(MIGRATIONS):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _version(connection)
        if version > len(MIGRATIONS):
            raise HostProblem(
                f"the record has version {version}; this nsbox knows versions up to {len(MIGRATIONS)}",
                remedy="start the newer nsbox, or use another --state-dir",
            )
        for script in MIGRATIONS[version:]:
            for statement in _statements(script):
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite itself rolls back when the disk is full
            connection.execute("ROLLBACK")
        raise


def _version(connection: sqlite3.Connection) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def _statements(script: str) -> list[str]:
    """Split a script. Not ``executescript``: that commits first, and a migration must be atomic."""
    statements: list[str] = []
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            statements.append(pending)
            pending = ""
    return statements
