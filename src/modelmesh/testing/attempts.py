"""How one attempt of a simulated call ends."""

from dataclasses import dataclass

from modelmesh.values.dataplane import Outcome
from modelmesh.values.ids import InstanceId, Revision
from modelmesh.values.status import Status


@dataclass(frozen=True, slots=True)
class Answer:
    """How a call ended. `held`: it found no ready copy, or its first attempt failed."""

    status: Status
    message: str = ""
    payload: object = None
    trailers: tuple[tuple[str, bytes], ...] = ()
    served_by: InstanceId | None = None
    held: bool = False


class AttemptEnded(Exception):  # noqa: N818 - carries an outcome, it is no error of ours
    """The attempt failed, in a way that the next one may make good; `view`: what the peer had seen."""

    def __init__(self, outcome: Outcome, answer: Answer, view: Revision | None = None) -> None:
        self.outcome = outcome
        self.answer = answer
        self.view = view


def outcome_of(status: Status, *, runtime_up: bool) -> Outcome | None:
    """What a runtime's error means to the request; None: it is the client's answer."""
    match status:
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
