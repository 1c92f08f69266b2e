"""The interface that an author implements: `ModelRuntime`, and the values that its methods take and return."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from google.protobuf.descriptor import ServiceDescriptor

from modelmesh.values.load_progress import LoadProgress

if TYPE_CHECKING:  # numpy comes with the extras; a runtime without tensors needs none
    from numpy.typing import NDArray

    Tensor = NDArray[Any]
    Outputs = Mapping[str, Tensor]

M = TypeVar("M")
"""The author's own type of a loaded model."""

MIB = 1024 * 1024
MAX_BATCH_WAIT_MS = 10_000.0


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Which model to load and from where, as it was registered. All but `id` may be empty."""

    id: str
    type: str = ""
    path: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a model.

    `datatype` is one of the Open Inference Protocol (FP32, INT64, BYTES, …). `shape` has the batch first; -1 means
    any size. `accepts` lists further datatypes that an input may have; `infer` gets the array as it came.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    accepts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelSignature:
    """What a model takes and gives. Empty inputs or outputs are not checked."""

    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    platform: str = ""


@dataclass(frozen=True, slots=True)
class Batching:
    """How the requests for a model may be put together. The first axis of all its inputs and outputs counts rows.

    `max_rows` bounds what one call of `infer` gets. `max_wait_ms` is how long a request waits for others while no call
    of the model runs. After a call it may wait for the callers of that one besides, for a tenth of the time that it took.
    """

    max_rows: int
    max_wait_ms: float = 0.0

    def __post_init__(self) -> None:
        if self.max_rows < 1 or not 0 <= self.max_wait_ms <= MAX_BATCH_WAIT_MS:
            raise ValueError(
                f"{self} needs max_rows of at least 1 and max_wait_ms between 0 and {MAX_BATCH_WAIT_MS:.0f}"
            )


@dataclass(frozen=True, slots=True)
class ModelService(Generic[M]):
    """A gRPC service of the author's own, answered per model.

    `methods` maps the method names of the proto to functions `(model, request) -> answer`, plain ones (run in a
    thread) or `async def`. A streaming answer is an async generator; a streaming request is an async iterator.
    A method that is left out answers UNIMPLEMENTED. `id_paths` names, per method, the field numbers that lead to
    the string field of the request into which the mesh writes the model id; leave it empty if no field wants it.
    """

    descriptor: ServiceDescriptor
    methods: Mapping[str, Callable[[M, Any], Any]]
    id_paths: Mapping[str, Sequence[int]] = field(default_factory=dict)


class ModelRuntime(Generic[M]):
    """A model server, as its author writes it; `modelmesh.runtime.run` serves it.

    Derive from it, set the attributes, write `load`, and either `infer` (the Open Inference Protocol) or `services`
    (any gRPC service of your own), or both. `M` is the type that your `load` returns.

    Every method may be a plain one, which then runs in a thread of a bounded pool, or an `async def`, which runs on
    the event loop and must not block it. `load` and `unload` of one model never overlap and `unload` is called
    once, when no call uses the model any more. `infer` and the methods of `services` are called concurrently, for
    one model too.

    An exception is answered with the status in the table of `modelmesh.runtime.errors`; raise `LoadError` or
    `RequestError` for messages of your own.

    Attributes:
        name: Answered by ServerMetadata.
        version: Answered by ServerMetadata and runtimeStatus.
        capacity_bytes: Memory for models. The mesh wants at least twice `default_size_bytes`, and at least ten times
            it or 512 MiB, whichever is less.
        default_size_bytes: What a model is taken to need when nothing better is known.
        loading_concurrency: Loads at once, at least 1.
        load_timeout_ms: How long the mesh waits for one load, at least 100.
        limits_concurrency: The mesh sends each copy at most `max_concurrency` requests at once.
    """

    name: str = "modelmesh-runtime"
    version: str = "1"
    capacity_bytes: int = 512 * MIB
    default_size_bytes: int = 20 * MIB
    loading_concurrency: int = 2
    load_timeout_ms: int = 60_000
    limits_concurrency: bool = False

    def load(self, source: ModelSource) -> M | Awaitable[M]:
        """Load a model and return it, able to serve.

        The load is given up when the mesh no longer wants it: an `async def` is cancelled, a thread runs to its end
        and the result is unloaded.
        """
        raise NotImplementedError

    def size(self, model: M) -> int | Awaitable[int]:
        """Bytes of memory that a loaded model takes; 0 if it is not known.

        Asked once, right after the load; the answer should be the same each time the same model is loaded. With 0
        the predicted size counts, else the default size.
        """
        del model
        return 0

    def predict_size(self, source: ModelSource) -> int | Awaitable[int | None] | None:
        """Bytes that a model will need, or None if it is not known without loading it.

        Has to answer within 500 ms. Rather a little too much than too little: the mesh makes that much room. Left
        out, the mesh goes by the sizes it has seen.
        """
        del source
        return None

    def progress(self, model_id: str) -> LoadProgress | None:
        """How far the load of a model is that runs now; None if it is not known.

        Asked once a second, on the event loop: answer from what is there. While a load moves on, the mesh waits beyond
        `load_timeout_ms`.
        """
        del model_id
        return None

    def unload(self, model: M) -> Awaitable[None] | None:
        """Give back what Python does not free by itself: device memory, files, child processes.

        References to `model` are dropped afterwards. An exception counts as "still there": the model stays
        accounted and the mesh tries again.
        """
        del model
        return None

    def max_concurrency(self, model: M) -> int:
        """Requests that one copy takes at once, at least 1. Asked only with `limits_concurrency`."""
        del model
        return 1

    def batching(self, model: M) -> Batching | None:
        """How requests for the model are put together before `infer`; None: each runs alone. Asked once, after the load.

        A request of a batch that fails is repeated alone, so an error is that of its own request only.
        """
        del model
        return None

    def signature(self, model: M) -> ModelSignature | Awaitable[ModelSignature]:
        """Names, types and shapes of the model's tensors; asked once, after the load.

        Requests are checked against the inputs before `infer` sees them.
        """
        del model
        return ModelSignature()

    def infer(
        self, model: M, inputs: "Mapping[str, Tensor]", parameters: Mapping[str, bool | int | float | str]
    ) -> "Outputs | Awaitable[Outputs] | Iterator[Outputs] | AsyncIterator[Outputs]":
        """Answer one Open Inference Protocol request.

        A generator, plain or async, answers more than once: each time it yields, by `ModelStreamInfer`. `ModelInfer` takes it
        only if it yields once. It is closed when the caller ends the call.

        Args:
            model: What `load` returned.
            inputs: By name, in the shape of the request, C-contiguous, read-only, valid until the call returns.
                BF16 arrives as float32; BYTES as an object array of `bytes`.
            parameters: Those of the request.

        Returns:
            By name, in the order of the answer. An array of `str` or `bytes` becomes BYTES; a float32 array becomes
            BF16 if the signature has it.
        """
        raise NotImplementedError

    def is_async(self, model: M) -> bool:
        """Whether `infer` of this model returns an awaitable at once, though it is a plain method; asked once, after the load.

        It is called on the event loop then.
        """
        del model
        return False

    def services(self) -> Sequence[ModelService[M]]:
        """The author's own gRPC services; asked once, when the server starts."""
        return ()

    def warm_up(self) -> Awaitable[None] | None:
        """Do what would make the first load slow: import packages, open devices. Called once, beside the first calls.

        Nothing waits for it; let `is_ready` return False meanwhile if needed. What exists in memory afterwards is
        left out of later garbage collections (`gc.freeze`) when `run` serves.
        """
        return None

    def close(self) -> Awaitable[None] | None:
        """Give back what belongs to no model. Called once, when the server stops and every model is unloaded."""
        return None

    def is_ready(self) -> bool:
        """Whether models may be loaded now. Until then the mesh waits, at most three minutes."""
        return True
