"""The embedded store's tables: revisions, history and leases over one SQLite connection, synchronously.

`keys` is the state now. `changes` is the recent history: each row says what a key became at a
revision and what it was before. The first half answers watches, the second undoes: the state at
revision R is the state now, with each key changed since put back to what it was before its first
change after R. So nothing about a key that did not change lately is stored twice.
"""

import sqlite3
from dataclasses import dataclass

from modelmesh.adapters.store.malformed import OPERATORS
from modelmesh.ports import (
    Answer,
    Change,
    ChangeKind,
    CompactedError,
    Compare,
    Delete,
    Get,
    KeyValue,
    LeaseNotFoundError,
    Listing,
    Put,
    StoreError,
    Transaction,
    TransactionResult,
)
from modelmesh.values.ids import Revision

FORMAT = 1
"""Version of the tables below; raised by every change of them."""

_APPLICATION_ID = 0x4D4D5354  # "MMST", in the file's header

_TABLES = """
CREATE TABLE keys (
    key BLOB PRIMARY KEY,
    value BLOB NOT NULL,
    create_revision INTEGER NOT NULL,
    mod_revision INTEGER NOT NULL,
    version INTEGER NOT NULL,
    lease INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX leased ON keys (lease) WHERE lease != 0;
CREATE TABLE changes (
    revision INTEGER NOT NULL,
    place INTEGER NOT NULL,
    key BLOB NOT NULL,
    value BLOB,  -- NULL: deleted
    create_revision INTEGER NOT NULL,
    version INTEGER NOT NULL,
    lease INTEGER NOT NULL,
    old_value BLOB,  -- NULL: there was none
    old_create_revision INTEGER NOT NULL,
    old_mod_revision INTEGER NOT NULL,
    old_version INTEGER NOT NULL,
    old_lease INTEGER NOT NULL,
    PRIMARY KEY (revision, place)
) WITHOUT ROWID;
CREATE TABLE state (revision INTEGER NOT NULL, compacted INTEGER NOT NULL);
INSERT INTO state VALUES (1, 0);
"""

_ALL = b"\xff\xff\xff\xff"  # sorts after every UTF-8 text

_COLUMNS = {"create": 1, "mod": 2, "version": 3, "value": 0}
_BREACH = {
    # A key under the prefix that breaks the condition. Written out, because SQL takes no parameters for names.
    (target, operator): f"SELECT 1 FROM keys WHERE key >= ? AND key < ? AND NOT {column} {sql} ? LIMIT 1"  # noqa: S608
    for target, column in (("create", "create_revision"), ("mod", "mod_revision"), ("version", "version"))
    for operator, sql in (("==", "="), ("!=", "!="), ("<", "<"), (">", ">"))
}

_Row = tuple[bytes, int, int, int, int]
"""Value, create revision, mod revision, version, lease."""


class StoreFileError(StoreError):
    """The store's file cannot be used: it is another's, of another version, or of another program."""


class Tables:
    """One connection. Not thread-safe; `begin` … `commit` or `rollback` around everything that writes."""

    def __init__(self, path: str, *, history: int) -> None:
        """Open or create the file at `path` (or `:memory:`); keeps at least `history` revisions."""
        self._path = path
        self._history = history
        self._connection = _connect(path)
        self._execute = self._connection.execute
        self.revision: int
        self.compacted: int
        self.revision, self.compacted = self._execute("SELECT revision, compacted FROM state").fetchone()
        self.orphans: tuple[KeyValue, ...] = ()
        self._published: list[Change] = []
        try:
            self._bury_orphans()
        except sqlite3.Error as err:
            self._connection.close()
            raise StoreFileError(f"cannot use the store file {path}: {err}") from err
        # Rises from one process to the next if the last one left anything behind, so that an id from before is
        # never taken for a lease of now.
        self._next_lease = (self.revision << 20) + 1
        self.leases: dict[int, int] = {}
        """Live leases and their TTLs."""
        self._at_begin = (self.revision, self.compacted, dict(self.leases))

    def _bury_orphans(self) -> None:
        """Delete the keys whose leases ended with an earlier process, at one revision."""
        rows = self._execute(
            "SELECT key, value, create_revision, mod_revision, version, lease FROM keys WHERE lease != 0 ORDER BY key"
        ).fetchall()
        self.orphans = tuple(_key_value(row) for row in rows)
        if rows:
            self._execute("BEGIN IMMEDIATE")
            self._delete_all([row[0] for row in rows])
            self._write_state()
            self._execute("COMMIT")
            self._published.clear()

    # --- transactions of SQLite ---

    def begin(self) -> None:
        """Start a group of operations that is committed as a whole."""
        self._at_begin = (self.revision, self.compacted, dict(self.leases))
        self._execute("BEGIN")

    def commit(self) -> list[Change]:
        """Make the group durable; returns its changes in order."""
        if (self.revision, self.compacted) != self._at_begin[:2]:
            # A thousand at a time: one old row per commit would cost each commit a second page.
            if self.revision - self._history - self.compacted > max(1000, self._history // 10):
                self.compact(Revision(self.revision - self._history))
            self._write_state()
        self._execute("COMMIT")
        published, self._published = self._published, []
        return published

    def rollback(self) -> None:
        """Undo the group."""
        self.revision, self.compacted, self.leases = self._at_begin
        self._published.clear()
        if self._connection.in_transaction:
            self._execute("ROLLBACK")

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _write_state(self) -> None:
        self._execute("UPDATE state SET revision = ?, compacted = ?", (self.revision, self.compacted))

    # --- reading ---

    def get(self, key: str) -> KeyValue | None:
        """The key now."""
        encoded = key.encode()
        row = self._row(encoded)
        return None if row is None else _key_value((encoded, *row))

    def range(self, prefix: str, start_after: str, limit: int, revision: int | None) -> Listing:
        """A part of the keys under a prefix, now or as they were."""
        at = self.revision if revision is None else revision
        if at < max(1, self.compacted) or at > self.revision:
            raise CompactedError(f"revision {at} is not kept (those from {self.compacted} to {self.revision} are)")
        low, high = _bounds(prefix)
        # The smallest text that sorts after another is that text and a zero byte.
        low = max(low, start_after.encode() + b"\x00") if start_after else low
        # Of a key's changes after `at` the first, and only that, replaced something from at or before `at`.
        rows = self._execute(
            "SELECT key, value, create_revision, mod_revision, version, lease FROM keys"
            " WHERE key >= :low AND key < :high AND mod_revision <= :at"
            " UNION ALL SELECT key, old_value, old_create_revision, old_mod_revision, old_version, old_lease"
            " FROM changes WHERE revision > :at AND key >= :low AND key < :high"
            " AND old_mod_revision BETWEEN 1 AND :at ORDER BY 1 LIMIT :limit"
            if at != self.revision
            else "SELECT key, value, create_revision, mod_revision, version, lease FROM keys"
            " WHERE key >= :low AND key < :high ORDER BY key LIMIT :limit",
            {"low": low, "high": high, "at": at, "limit": limit + 1 if limit else -1},
        ).fetchall()
        more = bool(limit) and len(rows) > limit
        return Listing(Revision(at), tuple(map(_key_value, rows[:limit] if more else rows)), more)

    def changes(self, prefix: str, start: int, at_least: int) -> tuple[tuple[Change, ...], int]:
        """Changes from revision `start` on: some whole revisions, and the revision to continue from."""
        if start <= self.compacted:
            raise CompactedError(f"revision {start} is not kept (those after {self.compacted} are)")
        low, high = _bounds(prefix)
        found: list[Change] = []
        cursor = self._execute(
            "SELECT key, value, create_revision, revision, version, lease FROM changes"
            " WHERE revision >= ? AND key >= ? AND key < ? ORDER BY revision, place",
            (start, low, high),
        )
        for row in cursor:
            if len(found) >= at_least and row[3] != found[-1].item.mod_revision:
                cursor.close()
                return tuple(found), row[3]
            kind = ChangeKind.DELETE if row[1] is None else ChangeKind.PUT
            found.append(Change(kind, _key_value((row[0], row[1] or b"", *row[2:]))))
        return tuple(found), self.revision + 1

    def _row(self, key: bytes) -> _Row | None:
        row: _Row | None = self._execute(
            "SELECT value, create_revision, mod_revision, version, lease FROM keys WHERE key = ?", (key,)
        ).fetchone()
        return row

    # --- writing ---

    def transact(self, transaction: Transaction) -> TransactionResult:
        """Run one transaction, which is not malformed; if it raises a StoreError it wrote nothing."""
        plan = self._plan(transaction)
        self._refuse(plan)
        revision = Revision(self.revision + 1)
        before = len(self._published)
        result = self._apply(plan, revision)
        if len(self._published) > before:
            self.revision = revision
            return result
        return _at_revision(result, Revision(self.revision))

    def _plan(self, transaction: Transaction) -> "_Plan":
        """Evaluate all compares, those of nested transactions too, before anything is written."""
        succeeded = all(map(self._holds, transaction.compares))
        operations = transaction.then if succeeded else transaction.otherwise
        return _Plan(succeeded, [self._plan(step) if isinstance(step, Transaction) else step for step in operations])

    def _holds(self, compare: Compare) -> bool:
        if compare.prefix:
            breach = self._execute(_BREACH[compare.target, compare.operator], (*_bounds(compare.key), compare.operand))
            return breach.fetchone() is None
        row = self._row(compare.key.encode())
        if row is None:
            # etcd: no value is neither equal to, different from, less nor greater than any.
            return compare.target != "value" and OPERATORS[compare.operator](0, compare.operand)
        return OPERATORS[compare.operator](row[_COLUMNS[compare.target]], compare.operand)

    def _refuse(self, plan: "_Plan") -> None:
        for step in plan.steps:
            if isinstance(step, Put):
                if step.lease and step.lease not in self.leases:
                    raise LeaseNotFoundError(
                        f"lease {step.lease} does not exist any more; {step.key!r} was not written"
                    )
                if step.keep_value and self._row(step.key.encode()) is None:
                    raise StoreError(f"there is no value of {step.key!r} to keep; nothing was written")
            elif isinstance(step, _Plan):
                self._refuse(step)

    def _apply(self, plan: "_Plan", revision: Revision) -> TransactionResult:
        answers: list[Answer] = []
        for step in plan.steps:
            match step:
                case Put():
                    self._put(step, revision)
                    answers.append(None)
                case Delete():
                    answers.append(self._delete(step))
                case Get():
                    answers.append(self._read(step))
                case _Plan():
                    answers.append(self._apply(step, revision))
        return TransactionResult(plan.succeeded, revision, tuple(answers))

    def _put(self, put: Put, revision: Revision) -> None:
        key = put.key.encode()
        old = self._row(key)
        value = old[0] if put.keep_value and old is not None else put.value
        create, version = (revision, 1) if old is None else (Revision(old[1]), old[3] + 1)
        self._execute(
            "INSERT OR REPLACE INTO keys VALUES (?, ?, ?, ?, ?, ?)", (key, value, create, revision, version, put.lease)
        )
        self._record(ChangeKind.PUT, KeyValue(put.key, value, create, revision, version, put.lease), key, old)

    def _read(self, get: Get) -> tuple[KeyValue, ...]:
        if get.prefix:
            low, high = _bounds(get.key)
            rows = self._execute(
                "SELECT key, value, create_revision, mod_revision, version, lease FROM keys"
                " WHERE key >= ? AND key < ? ORDER BY key LIMIT ?",
                (low, high, get.limit or -1),
            )
            return tuple(map(_key_value, rows))
        item = self.get(get.key)
        return () if item is None else (item,)

    def _delete(self, delete: Delete) -> int:
        if delete.prefix:
            found = self._execute("SELECT key FROM keys WHERE key >= ? AND key < ? ORDER BY key", _bounds(delete.key))
            return self._delete_keys([row[0] for row in found.fetchall()])
        return self._delete_keys([delete.key.encode()])

    def _delete_keys(self, keys: list[bytes]) -> int:
        deleted = 0
        revision = Revision(self.revision + 1)
        for key in keys:
            old = self._row(key)
            if old is not None:
                self._execute("DELETE FROM keys WHERE key = ?", (key,))
                item = KeyValue(key.decode(), b"", Revision(0), revision, 0)
                self._record(ChangeKind.DELETE, item, key, old)
                deleted += 1
        return deleted

    def _delete_all(self, keys: list[bytes]) -> None:
        """Delete keys in one revision."""
        if self._delete_keys(keys):
            self.revision += 1

    def _record(self, kind: ChangeKind, item: KeyValue, key: bytes, old: _Row | None) -> None:
        self._execute(
            "INSERT INTO changes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                item.mod_revision,
                len(self._published),
                key,
                item.value if kind is ChangeKind.PUT else None,
                item.create_revision,
                item.version,
                item.lease,
                *(old or (None, 0, 0, 0, 0)),
            ),
        )
        self._published.append(Change(kind, item))

    # --- leases and history ---

    def grant(self, ttl_ms: int) -> int:
        """A new lease, kept in memory only: it ends with the process."""
        lease = self._next_lease
        self._next_lease += 1
        self.leases[lease] = ttl_ms
        return lease

    def end_lease(self, lease: int) -> None:
        """Forget a lease, known or not, and delete its keys as one revision."""
        if self.leases.pop(lease, None) is not None:
            found = self._execute("SELECT key FROM keys WHERE lease = ? AND lease != 0 ORDER BY key", (lease,))
            self._delete_all([row[0] for row in found.fetchall()])

    def compact(self, revision: Revision) -> None:
        """Drop the history up to `revision`; the state at `revision` itself stays readable."""
        if self.compacted < revision <= self.revision:
            self._execute("DELETE FROM changes WHERE revision <= ?", (revision,))
            self.compacted = revision

    def empty(self) -> None:
        """Become a new store, as when a volume is lost: no key, no lease, no history, revision 1. A fault for tests."""
        self._execute("DELETE FROM keys")
        self._execute("DELETE FROM changes")
        self.revision, self.compacted = 1, 0
        self.leases.clear()


@dataclass(frozen=True, slots=True)
class _Plan:
    """A transaction whose compares are answered: what remains to be done."""

    succeeded: bool
    steps: "list[Put | Delete | Get | _Plan]"


def _connect(path: str) -> sqlite3.Connection:
    """Open, lock and, if new, fill the file; another program's or version's file is left as it is."""
    try:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0)
    except sqlite3.Error as err:
        raise StoreFileError(f"cannot open the store file {path}: {err}; does its folder exist?") from err
    try:
        _prepare(connection, path)
    except sqlite3.OperationalError as err:
        connection.close()
        if "locked" in str(err):
            raise StoreFileError(
                f"the store file {path} is in use by another instance; stop that one, or give this one its own file"
                " (several instances share an etcd)"
            ) from err
        raise StoreFileError(f"cannot use the store file {path}: {err}") from err
    except sqlite3.DatabaseError as err:
        connection.close()
        raise StoreFileError(f"{path} is no store file ({err}); name another path") from err
    except StoreFileError:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: str) -> None:
    # Before the first read: then the lock is taken once and kept, and WAL needs no shared memory file.
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    is_new = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if not is_new and application != _APPLICATION_ID:
        raise StoreFileError(f"{path} is another program's database; name another path")
    if not is_new and version != FORMAT:
        raise StoreFileError(
            f"the store file {path} has format {version}, this version of ModelMesh reads format {FORMAT};"
            " use the version that wrote it, or name another path"
        )
    connection.execute("PRAGMA journal_mode = WAL")
    # FULL: a commit is on the disk before it is acknowledged.
    connection.execute("PRAGMA synchronous = FULL")
    # A write, so that the exclusive lock is held from here on and not from the first change on.
    connection.executescript(
        f"BEGIN IMMEDIATE; PRAGMA application_id = {_APPLICATION_ID}; PRAGMA user_version = {FORMAT};"
        f" {_TABLES if is_new else ''} COMMIT"
    )


def _bounds(prefix: str) -> tuple[bytes, bytes]:
    """The range of keys with a prefix: from the first, up to but without the second."""
    low = prefix.encode()
    # No byte of UTF-8 is 0xff, so raising the last one never overflows.
    return low, low[:-1] + bytes((low[-1] + 1,)) if low else _ALL


def _key_value(row: tuple[bytes, bytes, int, int, int, int]) -> KeyValue:
    key, value, create, mod, version, lease = row
    return KeyValue(key.decode(), value, Revision(create), Revision(mod), version, lease)


def _at_revision(result: TransactionResult, revision: Revision) -> TransactionResult:
    """The same result; a transaction that wrote nothing has the revision it read."""
    answers = tuple(_at_revision(a, revision) if isinstance(a, TransactionResult) else a for a in result.answers)
    return TransactionResult(result.succeeded, revision, answers)
