"""Between the port's values and etcd's messages, both ways."""

from typing import Any

from modelmesh._proto import etcd_pb2 as rpc
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

_RESULTS = {
    "==": rpc.Compare.EQUAL,
    "!=": rpc.Compare.NOT_EQUAL,
    "<": rpc.Compare.LESS,
    ">": rpc.Compare.GREATER,
}
_TARGETS = {
    "create": (rpc.Compare.CREATE, "create_revision"),
    "mod": (rpc.Compare.MOD, "mod_revision"),
    "version": (rpc.Compare.VERSION, "version"),
    "value": (rpc.Compare.VALUE, "value"),
}
_DELETE = rpc.Event.DELETE


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
            return b"\x00", b"\x00"  # all keys, in etcd
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
        kind = ChangeKind.DELETE if event.type == _DELETE else ChangeKind.PUT
        return Change(kind, self.item(event.kv))

    def transaction(self, transaction: Transaction) -> Any:
        """A request, nested ones included."""
        request = rpc.TxnRequest()
        self._fill(request, transaction)
        return request

    # Messages are filled where they stand: one that is made apart and then put into another is copied, at each level.

    def _fill(self, request: Any, transaction: Transaction) -> None:
        for compare in transaction.compares:
            self._compare(request.compare.add(), compare)
        for operation in transaction.then:
            self._operation(request.success.add(), operation)
        for operation in transaction.otherwise:
            self._operation(request.failure.add(), operation)

    def _compare(self, message: Any, compare: Compare) -> None:
        message.key, message.range_end = self._span(compare)
        message.result = _RESULTS[compare.operator]
        message.target, field = _TARGETS[compare.target]
        setattr(message, field, compare.operand)

    def _operation(self, message: Any, operation: Operation) -> None:
        match operation:
            case Put():
                put = message.request_put
                put.key = self.encode(operation.key)
                put.lease = operation.lease
                if operation.keep_value:
                    put.ignore_value = True
                else:
                    put.value = operation.value
            case Delete():
                delete = message.request_delete_range
                delete.key, delete.range_end = self._span(operation)
            case Get():
                get = message.request_range
                get.key, get.range_end = self._span(operation)
                get.limit = operation.limit
            case Transaction():
                nested = message.request_txn
                nested.SetInParent()  # an empty one is an operation too
                self._fill(nested, operation)

    def _span(self, named: Compare | Delete | Get) -> tuple[bytes, bytes]:
        return self.bounds(named.key) if named.prefix else (self.encode(named.key), b"")

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
