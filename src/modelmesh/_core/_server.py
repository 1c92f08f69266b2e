"""The classes of the native module for servers in Python."""

from modelmesh._core._native import Came, OnnxSession, OpenedCall, QuickModels, RequestPart, ServerSockets

__all__ = ["Came", "OnnxSession", "OpenedCall", "QuickModels", "RequestPart", "ServerSockets"]
