"""The data plane: the native core behind the `DataPlane` port. Read `native.py`."""

from modelmesh.adapters.dataplane.native import ListenerTls, NativeDataPlane

__all__ = ["ListenerTls", "NativeDataPlane"]
