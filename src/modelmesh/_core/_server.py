"""The classes of the native module for servers in Python."""

from modelmesh._core._native import Came, HeldCall, OnnxSession, OpenedCall, QuickModels, RequestPart, ServerSockets

__all__ = ["Came", "HeldCall", "OnnxSession", "OpenedCall", "QuickModels", "RequestPart", "ServerSockets"]
