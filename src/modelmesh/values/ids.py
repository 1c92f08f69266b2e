"""Identifiers and units, as distinct types so that they cannot be swapped unnoticed."""

from typing import NewType

ModelId = NewType("ModelId", str)
"""Any non-empty text; slashes and spaces are allowed."""

VModelId = NewType("VModelId", str)

InstanceId = NewType("InstanceId", str)
"""Non-empty, without `/` and `,`."""

LoadId = NewType("LoadId", int)
"""Identity of one load of one model at one instance; rises over the life of an instance id."""

Token = NewType("Token", int)
"""A request held by the data plane."""

Revision = NewType("Revision", int)
"""A store revision; 0 means "before everything"."""
