"""The client for threads."""

import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import grpc

from modelmesh.client import calls
from modelmesh.client.connection import Tls, channel_options
from modelmesh.client.errors import UnavailableError, error_of, pause_s
from modelmesh.client.models import ModelStatus

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

T = TypeVar("T")


class Client:
    """A connection to a mesh, or to another server of the Open Inference Protocol (Triton, KServe).

    Threads may share it; close it in the end, or use it in `with`. Each method raises `ModelMeshError`, or its subclass
    for the status, if the call fails. A call that the server asks to repeat is repeated when it asks, within
    the time of the call; no other is.

    Args:
        address: Its gRPC endpoint, `host:port`: of any instance, they all serve all models.
        tls: None: clear text.
        timeout_s: For a whole call, where the call gives none: a load of the model and repetitions count.
        headers: Sent with each call, like `authorization`; names are lower case.

    Raises:
        OSError: A PEM file cannot be read.
        ValueError: `timeout_s` is not above 0, or a certificate comes without its key.
    """

    def __init__(
        self,
        address: str,
        *,
        tls: Tls | None = None,
        timeout_s: float = calls.DEFAULT_TIMEOUT_S,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._timeout_s = calls.checked_timeout(timeout_s)
        self._headers: tuple[calls.Header, ...] = tuple((headers or {}).items())
        options = channel_options(address)
        if tls is None:
            self._channel = grpc.insecure_channel(address, options=options)
        else:
            self._channel = grpc.secure_channel(address, tls.credentials(), options=options)
        self._methods: dict[str, Callable[..., Any]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection and the calls that are under way."""
        self._channel.close()

    def infer(
        self,
        model: str,
        inputs: "Mapping[str, ArrayLike]",
        *,
        vmodel: bool = False,
        outputs: Sequence[str] | None = None,
        bfloat16: Collection[str] = (),
        priority: str | None = None,
        timeout_s: float | None = None,
    ) -> "dict[str, NDArray[Any]]":
        """Call a model; a mesh loads it if it is not loaded. Needs numpy.

        Args:
            model: Its id, or that of a vmodel.
            inputs: Arrays by name, or what `numpy.asarray` makes one of. Their types choose the datatypes: text and
                `bytes` are BYTES.
            vmodel: Whether `model` names a vmodel.
            outputs: Names to answer; None: all.
            bfloat16: Inputs that are sent as BF16, which numpy does not have: arrays of floats, rounded to even.
            priority: The class of the call: `high`, `normal` or `low`. A mesh may lower it; other servers know no classes.
            timeout_s: For the call with its repetitions.

        Returns:
            The outputs by name, in the server's order, with its shapes and types: BF16 as float32, BYTES as objects
            of `bytes`. The arrays are read-only.

        Raises:
            ValueError: An input is no tensor, or there is no such class.
        """
        call = calls.infer(model, inputs, vmodel=vmodel, outputs=outputs, bfloat16=bfloat16, priority=priority)
        return self._run(call, timeout_s)

    def stream(
        self,
        model: str,
        inputs: "Mapping[str, ArrayLike]",
        *,
        vmodel: bool = False,
        outputs: Sequence[str] | None = None,
        bfloat16: Collection[str] = (),
        priority: str | None = None,
        timeout_s: float | None = None,
    ) -> "Iterator[dict[str, NDArray[Any]]]":
        """Call a model that answers more than once (`ModelStreamInfer`), and yield each answer when it comes.

        The arguments are those of `infer`; `timeout_s` is for all answers together. The call begins with the first answer that is asked for,
        and ends when the iterator is closed. It is repeated, if the server asks for that, only before its first answer.

        Raises:
            ModelMeshError: The call failed, or the model says that it did: after the answers that came before.
            ValueError: An input is no tensor, or there is no such class.
        """
        call = calls.stream(model, inputs, vmodel=vmodel, outputs=outputs, bfloat16=bfloat16, priority=priority)
        return self._answers(call, calls.checked_timeout(self._timeout_s if timeout_s is None else timeout_s))

    def wait_ready(self, model: str, timeout_s: float, *, vmodel: bool = False) -> None:
        """Return when a model is ready, and a mesh has loaded it; a server that is starting is waited for.

        Raises:
            DeadlineExceededError: It is not after `timeout_s`.
        """
        call = calls.ready(model, vmodel=vmodel)
        deadline = time.monotonic() + calls.checked_timeout(timeout_s)
        pause = calls.FIRST_POLL_S
        while (left := deadline - time.monotonic()) > 0:
            with contextlib.suppress(UnavailableError):
                if self._run(call, left):
                    return
            time.sleep(max(min(pause, deadline - time.monotonic()), 0))
            pause = min(2 * pause, calls.LONGEST_POLL_S)
        raise calls.not_ready(model, timeout_s)

    def status(self, model: str, *, timeout_s: float | None = None) -> ModelStatus:
        """Where a model is, as the called instance knows it; loads nothing. NOT_FOUND is a state, not an error."""
        return self._run(calls.status(model), timeout_s)

    def register(
        self,
        model: str,
        *,
        kind: str,
        path: str = "",
        key: str = "",
        load: bool = False,
        wait: bool = False,
        timeout_s: float | None = None,
    ) -> ModelStatus:
        """Make a model known to the mesh. The same again changes nothing.

        Args:
            model: Its id.
            kind: Its type, as the runtime knows it.
            path: Where its files are; the runtime reads it.
            key: What else the runtime needs, often JSON.
            load: Whether to load it now.
            wait: Whether to return only when it is loaded.
            timeout_s: For the call with its repetitions.
        """
        return self._run(calls.register(model, kind=kind, path=path, key=key, load=load, wait=wait), timeout_s)

    def unregister(self, model: str, *, timeout_s: float | None = None) -> None:
        """Make the mesh forget a model, and unload it."""
        self._run(calls.unregister(model), timeout_s)

    def ensure_loaded(self, model: str, *, wait: bool = True, timeout_s: float | None = None) -> ModelStatus:
        """Load a model of the mesh if it is not; `wait`: return when it is, or has failed."""
        return self._run(calls.ensure_loaded(model, wait=wait), timeout_s)

    def _run(self, call: calls.Call[T], timeout_s: float | None) -> T:
        deadline = time.monotonic() + calls.checked_timeout(self._timeout_s if timeout_s is None else timeout_s)
        method = self._methods.get(call.method) or self._method(call)
        headers = self._headers + call.headers
        while True:
            try:
                answer = method(call.request, timeout=max(deadline - time.monotonic(), 0), metadata=headers)
            except grpc.RpcError as failure:
                error = error_of(failure)
                pause = pause_s(error, deadline - time.monotonic())
                if pause is None:
                    raise error from failure
            else:
                return call.result(answer)
            time.sleep(pause)

    def _answers(self, call: calls.Call[T], timeout_s: float) -> Iterator[T]:
        deadline = time.monotonic() + timeout_s
        method: Callable[..., Any] = self._channel.stream_stream(
            call.method,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=call.answer.FromString,
        )
        headers = self._headers + call.headers
        has_begun = False
        while True:
            left = max(deadline - time.monotonic(), 0)
            answers = method(iter((call.request,)), timeout=left, metadata=headers)
            try:
                for answer in answers:
                    has_begun = True
                    yield call.result(answer)
            except grpc.RpcError as failure:
                error = error_of(failure)
                pause = None if has_begun else pause_s(error, deadline - time.monotonic())
                if pause is None:
                    raise error from failure
            else:
                return
            finally:
                answers.cancel()
            time.sleep(pause)

    def _method(self, call: calls.Call[Any]) -> Callable[..., Any]:
        method: Callable[..., Any] = self._channel.unary_unary(
            call.method,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=call.answer.FromString,
        )
        self._methods[call.method] = method
        return method
