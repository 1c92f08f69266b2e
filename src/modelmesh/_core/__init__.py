"""The native module, fenced off: imported from `modelmesh.adapters.dataplane` and `.channel` only."""

import warnings

from modelmesh._core import _native

if _native.BUILD_PROFILE != "release":
    warnings.warn(
        "modelmesh was built without optimisation; every call costs several times more. Build it with `make build`.",
        stacklevel=2,
    )
