"""Who calls, and what they may do."""

import enum
from dataclasses import dataclass


class Verb(enum.Enum):
    """What a principal may be allowed to do with a model or a vmodel. Each of them allows to ask for its status."""

    INFER = "infer"
    STATUS = "status"
    LOAD = "load"
    REGISTER = "register"
    ADMIN = "admin"


class Kind(enum.Enum):
    """What a name is the name of."""

    MODEL = "model"
    VMODEL = "vmodel"


class Listener(enum.Enum):
    """By which port of clients a call came in. `MANAGEMENT`: that of management alone, if it has one."""

    GRPC = "grpc"
    REST = "rest"
    MANAGEMENT = "management"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who calls. `tenant` empty: none, so no quota."""

    name: str
    groups: tuple[str, ...] = ()
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class InferRight:
    """One pattern under which an identity may infer. A pattern is a name, or its beginning and `*`."""

    pattern: str
    kind: Kind
    listeners: frozenset[Listener]
