"""What an instance does not import before it is needed: each costs it several megabytes for as long as it lives."""

import subprocess
import sys

NOT_NEEDED = ("aiohttp", "cryptography", "grpc", "jwt", "numpy", "opentelemetry", "sklearn")
PROGRAM = f"""
import sys
import modelmesh.instance.main
print([name for name in {NOT_NEEDED!r} if name in sys.modules])
"""


def test_an_instance_imports_no_library_that_only_some_settings_need() -> None:
    printed = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True)
    assert printed.stdout.strip() == "[]"
