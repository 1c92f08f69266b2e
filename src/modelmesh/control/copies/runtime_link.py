"""The runtime beside us: start-up, what it reports, connection lost and back.

`runtimeStatus` is asked at start and after a restart only: existing runtimes answer it by dropping
every model, so it is never a health probe.
"""

from collections.abc import Callable
from dataclasses import dataclass

from modelmesh.control.journal import Journal
from modelmesh.control.tasks import Tasks
from modelmesh.machines.listening import Listening
from modelmesh.machines.memory import minimum_capacity
from modelmesh.machines.runtime_link import LinkEffect, LinkInput, LinkState, RuntimeLinkMachine
from modelmesh.ports import Clock, Runtime, RuntimeCallError, RuntimeState, RuntimeStatus
from modelmesh.values.ids import ModelId
from modelmesh.values.memory import SMALLEST, Memory
from modelmesh.values.status import Status

POLL_MS = 500
POLL_LOG_MS = 10_000
LISTEN_MS = 2_000
"""How often the runtime is asked for a sign of life."""

START_BUDGET_MS = 180_000
MIN_LOAD_TIMEOUT_MS = 100
LONGEST_PATH = 16
GREATEST_FIELD = 2**29 - 1


class RuntimeRejectedError(Exception):
    """The runtime's parameters cannot be worked with, or it did not become ready in time."""


@dataclass(frozen=True, slots=True)
class RuntimeParameters:
    """A runtime's parameters, checked. Sizes in bytes."""

    capacity: Memory
    default_size: Memory
    loading_slots: int
    load_timeout_ms: int
    limits_concurrency: bool
    allows_any_method: bool
    injection_paths: tuple[tuple[str, tuple[int, ...]], ...]


def check_parameters(status: RuntimeStatus) -> RuntimeParameters:
    """Check what a READY runtime reports.

    Raises:
        RuntimeRejectedError: A parameter is missing or out of range; the message names it.
    """
    problems = []
    if not status.default_size:
        problems.append("defaultModelSizeInBytes must be above 0")
    if status.loading_concurrency < 1:
        problems.append("maxLoadingConcurrency must be at least 1")
    if status.load_timeout_ms < MIN_LOAD_TIMEOUT_MS:
        problems.append(f"modelLoadingTimeoutMs must be at least {MIN_LOAD_TIMEOUT_MS}, not {status.load_timeout_ms}")
    least = minimum_capacity(status.default_size.at_least(SMALLEST))
    if not least.fits(status.capacity):
        problems.append(
            f"capacityInBytes must be at least {least.bytes} for models of "
            f"{status.default_size.bytes} bytes, not {status.capacity.bytes}"
        )
    for method, path in status.injection_paths:
        if len(path) > LONGEST_PATH or not all(0 < number <= GREATEST_FIELD for number in path):
            problems.append(f"idInjectionPath of {method} must hold at most {LONGEST_PATH} field numbers of protobuf")
    if problems:
        raise RuntimeRejectedError("the runtime's parameters are unusable: " + "; ".join(problems))
    return RuntimeParameters(
        capacity=status.capacity,
        default_size=status.default_size,
        loading_slots=status.loading_concurrency,
        load_timeout_ms=status.load_timeout_ms,
        limits_concurrency=status.limits_concurrency,
        allows_any_method=status.allows_any_method,
        injection_paths=status.injection_paths,
    )


class RuntimeLink:
    """Drives the `runtime_link` machine.

    Args:
        held: Returns a model that is held, or None.
        loads: How many loads are at the runtime.
        opened: Called when loads and calls may go to the runtime (again).
        closed: Called when they may not.
        hung: Called when calls that are there should go elsewhere.
        emptied: Called when the runtime has lost every model.
        reported: Called with the parameters whenever the runtime reports them.
    """

    def __init__(
        self,
        *,
        runtime: Runtime,
        clock: Clock,
        journal: Journal,
        tasks: Tasks,
        held: Callable[[], ModelId | None],
        loads: Callable[[], int],
        opened: Callable[[], None],
        closed: Callable[[], None],
        hung: Callable[[], None],
        emptied: Callable[[], None],
        reported: Callable[[RuntimeParameters], None],
    ) -> None:
        self._runtime = runtime
        self._clock = clock
        self._journal = journal
        self._tasks = tasks
        self._held = held
        self._loads = loads
        self._opened = opened
        self._closed = closed
        self._hung = hung
        self._emptied = emptied
        self._reported = reported
        self._machine = RuntimeLinkMachine()
        self._probes = 0

    @property
    def ready(self) -> bool:
        """Whether the runtime takes loads and calls."""
        return self._machine.state is LinkState.READY

    async def begin(self) -> RuntimeParameters:
        """Poll until the runtime is READY.

        Raises:
            RuntimeRejectedError: It reports FAILING or unusable parameters, or is not READY after 180 s.
        """
        parameters = await self._poll(self._clock.monotonic_ms() + START_BUDGET_MS)
        self._reported(parameters)
        self._step(LinkInput.BECAME_READY)
        self._tasks.persist(self._listen, "listen to the runtime")
        return parameters

    def lost(self) -> None:
        """The data plane reports that the connection was lost and cannot be opened."""
        self._journal.note("runtime_lost", detail="the runtime cannot be reached; its copies are not offered")
        self._step(LinkInput.CONNECTION_LOST)

    def back(self) -> None:
        """The data plane reports that the connection is open again."""
        self._step(LinkInput.CONNECTION_BACK)

    def _step(self, given: LinkInput) -> None:
        for effect in self._machine.step(given):
            try:
                self._perform(effect)
            except Exception as error:  # noqa: BLE001 - the other effects are of the same step
                self._tasks.report(f"{effect.value} of the runtime's link", error)

    def _perform(self, effect: LinkEffect) -> None:
        match effect:
            case LinkEffect.OPEN:
                self._journal.note("runtime_ready")
                self._opened()
            case LinkEffect.CLOSE:
                self._closed()
            case LinkEffect.MOVE_CALLS:
                self._hung()
            case LinkEffect.PROBE:
                self._probes += 1
                number = self._probes
                self._tasks.persist(lambda: self._probe(number), "probe the runtime")
            case LinkEffect.DROP_COPIES:
                self._journal.note("runtime_restarted", detail="the runtime has lost its models")
                self._emptied()
            case LinkEffect.ASK_STATUS:
                self._tasks.persist(self._restarted, "ask the runtime's status")

    async def _listen(self) -> None:
        """Ask for a sign of life, over and over, whether there are calls or not: the next one should not find out."""
        listening = Listening()
        while True:
            if not listening.doubts:
                await self._clock.sleep(LISTEN_MS)
            if self._machine.state in {LinkState.LOST, LinkState.RESTARTING}:
                listening.answered()  # the connection is another matter
                continue
            try:
                await self._runtime.answers()
            except RuntimeCallError as error:
                if error.status is not Status.DEADLINE_EXCEEDED:
                    listening.answered()  # no process listens there, which the data plane notices
                    await self._clock.sleep(LISTEN_MS)
                elif listening.unanswered(loads=self._loads()) and self._machine.accepts(LinkInput.SILENT):
                    if self._machine.state is not LinkState.HUNG:
                        self._journal.note("runtime_hung", detail=f"{error.message}; its copies are not offered")
                    self._step(LinkInput.SILENT)
            else:
                listening.answered()
                if self._machine.state is LinkState.HUNG:
                    self._journal.note("runtime_answers", detail="the runtime answers again")
                    self._step(LinkInput.ANSWERED)

    async def _probe(self, number: int) -> None:
        """Was it only the connection? The size of a held model is known to a runtime that still has it."""
        model = self._held()
        there = False
        if model is not None:
            try:
                await self._runtime.measure_size(model)
                there = True
            except RuntimeCallError as error:
                there = error.status not in {Status.NOT_FOUND, Status.UNIMPLEMENTED, Status.UNAVAILABLE}
        if (
            number == self._probes and self._machine.state is LinkState.PROBING
        ):  # else it is about an earlier connection
            self._step(LinkInput.MODELS_THERE if there else LinkInput.MODELS_GONE)

    async def _restarted(self) -> None:
        while True:
            try:
                parameters = await self._poll(None)
            except RuntimeRejectedError as error:
                self._journal.note("runtime_rejected", detail=str(error))
                await self._clock.sleep(POLL_LOG_MS)
                continue
            self._reported(parameters)
            self._step(LinkInput.BECAME_READY)
            return

    async def _poll(self, deadline_ms: int | None) -> RuntimeParameters:
        noted_ms: int | None = None
        while True:
            why = ""
            try:
                status = await self._runtime.status()
            except RuntimeCallError as error:
                if error.status is Status.UNIMPLEMENTED:
                    raise RuntimeRejectedError(
                        "the runtime does not implement mmesh.ModelRuntime/runtimeStatus; is this the right port?"
                    ) from error
                why = str(error)
            else:
                if status.state is RuntimeState.READY:
                    return check_parameters(status)
                if status.state is RuntimeState.FAILING:
                    raise RuntimeRejectedError("the runtime reports that it is failing; see its log")
                why = "it is still starting"
            now_ms = self._clock.monotonic_ms()
            if deadline_ms is not None and now_ms >= deadline_ms:
                seconds = START_BUDGET_MS // 1000
                raise RuntimeRejectedError(f"Model server container did not start after {seconds} seconds: {why}")
            if noted_ms is None or now_ms - noted_ms >= POLL_LOG_MS:
                noted_ms = now_ms
                self._journal.note("runtime_awaited", detail=why)
            await self._clock.sleep(POLL_MS)
