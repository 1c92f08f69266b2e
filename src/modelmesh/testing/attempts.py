"""How one attempt of a simulated call ends."""

from dataclasses import dataclass

from modelmesh.ports import RuntimeCallError
from modelmesh.values.dataplane import Outcome
from modelmesh.values.ids import InstanceId, ModelId, Revision
from modelmesh.values.status import Status


@dataclass(frozen=True, slots=True)
class Answer:
    """How a call ended. `held`: it found no ready copy, or its first attempt failed. `fallback`: it answered for another model."""

    status: Status
    message: str = ""
    payload: object = None
    trailers: tuple[tuple[str, bytes], ...] = ()
    served_by: InstanceId | None = None
    held: bool = False
    fallback: ModelId | None = None


class AttemptEnded(Exception):  # noqa: N818 - carries an outcome, it is no error of ours
    """The attempt failed, in a way that the next one may make good.

    `view`: what the peer had seen; `begun`: the other side may have begun it.
    """

    def __init__(self, outcome: Outcome, answer: Answer, view: Revision | None = None, *, begun: bool = False) -> None:
        self.outcome = outcome
        self.answer = answer
        self.view = view
        self.begun = begun


def outcome_of(error: RuntimeCallError, *, runtime_up: bool) -> Outcome | None:
    """What a runtime's error means to the request; None: it is the client's answer."""
    match error.status:
        case _ if error.lost:
            return Outcome.LOST
        case Status.NOT_FOUND:
            return Outcome.NOT_HERE
        case Status.UNAVAILABLE:
            return Outcome.UNAVAILABLE if runtime_up else Outcome.LOST
        case Status.RESOURCE_EXHAUSTED:
            return Outcome.EXHAUSTED
        case _:
            return None


def refused(outcome: Outcome, message: str, instance: InstanceId) -> Answer:
    """What a peer answers that does not serve a hop."""
    return Answer(Status.UNAVAILABLE, message, trailers=(("mm-refused", outcome.value.encode()),), served_by=instance)
