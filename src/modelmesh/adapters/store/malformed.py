"""Checks that every store adapter makes before it sends or writes anything.

Stated once, so that a transaction that passes on the embedded store passes on etcd too. The limits
are those of an etcd as it comes.
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from modelmesh.ports import Compare, Delete, Get, Operation, Put, Transaction

MAX_OPERATIONS = 128
"""In one list of a transaction; nested ones count again. etcd's default `--max-txn-ops`."""

OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}


@dataclass(slots=True)
class _Writes:
    """Keys that some branch may put, and ranges that some branch may delete."""

    puts: set[str] = field(default_factory=set)
    deletes: list[Delete] = field(default_factory=list)

    def refuse_overlap(self, other: "_Writes") -> None:
        for key in other.puts:
            if key in self.puts:
                raise ValueError(f"key {key!r} is put twice in one transaction; a transaction is one revision")
        for deletes, puts in ((self.deletes, other.puts), (other.deletes, self.puts)):
            for delete in deletes:
                for key in puts:
                    if key.startswith(delete.key) if delete.prefix else key == delete.key:
                        raise ValueError(f"key {key!r} is put and deleted in one transaction")

    def add(self, other: "_Writes") -> None:
        self.puts |= other.puts
        self.deletes += other.deletes


def refuse_malformed(transaction: Transaction) -> None:
    """Check a transaction before it is run.

    Raises:
        ValueError: A key is put twice, or put and deleted, in branches that can run together; a list
            is too long; a compare is none that every store can answer.
    """
    _writes_of(transaction)


def _writes_of(transaction: Transaction) -> _Writes:
    if len(transaction.compares) > MAX_OPERATIONS:
        raise ValueError(f"{len(transaction.compares)} compares in one transaction; at most {MAX_OPERATIONS}")
    for compare in transaction.compares:
        _refuse_compare(compare)
    writes = _writes_of_branch(transaction.then)
    if transaction.otherwise:
        # The two branches never run together, so they may name the same keys.
        writes.add(_writes_of_branch(transaction.otherwise))
    return writes


def _writes_of_branch(operations: Sequence[Operation]) -> _Writes:
    if len(operations) > MAX_OPERATIONS:
        raise ValueError(f"{len(operations)} operations in one list of a transaction; at most {MAX_OPERATIONS}")
    writes = _Writes()
    for operation in operations:
        match operation:
            case Put():
                _refuse_empty_key(operation.key)
                own = _Writes(puts={operation.key})
            case Delete():
                if not operation.prefix:
                    _refuse_empty_key(operation.key)
                own = _Writes(deletes=[operation])
            case Get():
                if not operation.prefix:
                    _refuse_empty_key(operation.key)
                continue
            case Transaction():
                own = _writes_of(operation)
        writes.refuse_overlap(own)
        writes.add(own)
    return writes


def _refuse_compare(compare: Compare) -> None:
    if not compare.prefix:
        _refuse_empty_key(compare.key)
    if isinstance(compare.operand, bytes) is not (compare.target == "value"):
        raise ValueError(f"{compare.target} of {compare.key!r} compared with {compare.operand!r}")
    # etcd answers a compare over an empty range as if there were one key whose numbers are 0. Where 0
    # satisfies the condition that is what `Compare` promises; elsewhere no transaction could express it.
    if compare.prefix and (compare.target == "value" or not OPERATORS[compare.operator](0, compare.operand)):
        raise ValueError(
            f"{compare.target} {compare.operator} {compare.operand!r} over prefix {compare.key!r}: "
            "an empty prefix would not satisfy it; only such conditions can be asked of a prefix"
        )


def _refuse_empty_key(key: str) -> None:
    if not key:
        raise ValueError("the empty key cannot be stored")
