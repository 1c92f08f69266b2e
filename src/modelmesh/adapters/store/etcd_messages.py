"""Between the port's values and etcd's messages, both ways."""

from typing import Any

from aetcd import rpc

from modelmesh.ports import (
    Answer,
    Change,
    ChangeKind,
    Compare,
    Delete,
    Get,
    KeyValue,
    Operation,
    Put,
    Transaction,
    TransactionResult,
)
from modelmesh.values.ids import Revision

_RESULTS = {"==": "EQUAL", "!=": "NOT_EQUAL", "<": "LESS", ">": "GREATER"}
_TARGETS = {
    "create": ("CREATE", "create_revision"),
    "mod": ("MOD", "mod_revision"),
    "version": ("VERSION", "version"),
    "value": ("VALUE", "value"),
}


class Messages:
    """Translates; adds the root prefix to every key on the way out and removes it on the way in."""

    def __init__(self, root_prefix: str) -> None:
        self._root = root_prefix.encode()

    def encode(self, key: str) -> bytes:
        """A key as etcd has it. Keys of others under our prefix may be no UTF-8; they pass through, and back."""
        return self._root + key.encode(errors="surrogateescape")

    def decode(self, key: bytes) -> str:
        """A key as we have it."""
        return key[len(self._root) :].decode(errors="surrogateescape")

    def bounds(self, prefix: str) -> tuple[bytes, bytes]:
        """Key and range_end of all keys with a prefix."""
        low = self.encode(prefix)
        if not low:
            return b"\x00", b"\x00"  # etcd's way to say "all"
        return low, low[:-1] + bytes((low[-1] + 1,))

    def item(self, kv: Any) -> KeyValue:
        """One key of an answer."""
        return KeyValue(
            self.decode(kv.key),
            kv.value,
            Revision(kv.create_revision),
            Revision(kv.mod_revision),
            kv.version,
            kv.lease,
        )

    def change(self, event: Any) -> Change:
        """One event of a watch."""
        kind = ChangeKind.DELETE if event.type == rpc.Event.DELETE else ChangeKind.PUT
        return Change(kind, self.item(event.kv))

    def transaction(self, transaction: Transaction) -> Any:
        """A request, nested ones included."""
        return rpc.TxnRequest(
            compare=[self._compare(compare) for compare in transaction.compares],
            success=[self._operation(operation) for operation in transaction.then],
            failure=[self._operation(operation) for operation in transaction.otherwise],
        )

    def _compare(self, compare: Compare) -> Any:
        target, field = _TARGETS[compare.target]
        low, high = self.bounds(compare.key) if compare.prefix else (self.encode(compare.key), b"")
        result = rpc.Compare.CompareResult.Value(_RESULTS[compare.operator])
        target = rpc.Compare.CompareTarget.Value(target)
        return rpc.Compare(result=result, target=target, key=low, range_end=high, **{field: compare.operand})

    def _operation(self, operation: Operation) -> Any:
        match operation:
            case Put():
                put = rpc.PutRequest(
                    key=self.encode(operation.key),
                    value=b"" if operation.keep_value else operation.value,
                    lease=operation.lease,
                    ignore_value=operation.keep_value,
                )
                return rpc.RequestOp(request_put=put)
            case Delete():
                low, high = self._span(operation)
                return rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=low, range_end=high))
            case Get():
                low, high = self._span(operation)
                get = rpc.RangeRequest(key=low, range_end=high, limit=operation.limit)
                return rpc.RequestOp(request_range=get)
            case Transaction():
                return rpc.RequestOp(request_txn=self.transaction(operation))

    def _span(self, operation: Delete | Get) -> tuple[bytes, bytes]:
        return self.bounds(operation.key) if operation.prefix else (self.encode(operation.key), b"")

    def result(self, transaction: Transaction, answer: Any, revision: Revision) -> TransactionResult:
        """The answer to a request; nested answers come without a header of their own."""
        operations = transaction.then if answer.succeeded else transaction.otherwise
        answers: list[Answer] = []
        for operation, response in zip(operations, answer.responses, strict=True):
            match operation:
                case Put():
                    answers.append(None)
                case Delete():
                    answers.append(response.response_delete_range.deleted)
                case Get():
                    answers.append(tuple(map(self.item, response.response_range.kvs)))
                case Transaction():
                    answers.append(self.result(operation, response.response_txn, revision))
        return TransactionResult(answer.succeeded, revision, tuple(answers))
