"""The classes of the native module for servers in Python."""

from modelmesh._core._native import Came, OpenedCall, RequestPart, ServerConnection, Unfinished

__all__ = ["Came", "OpenedCall", "RequestPart", "ServerConnection", "Unfinished"]
