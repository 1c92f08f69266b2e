"""docs/tutorials/write-a-runtime.md, step by step, as a reader would."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tutorials" / "write-a-runtime.md").read_text()


def saved(name):
    """The block that the page says to save under a name."""
    return re.search(rf"ave this as `{re.escape(name)}`:\n\n```\w+\n(.*?)```", PAGE, re.DOTALL)[1]


def commands():
    """Commands of the page, each with the output shown beneath it."""
    found = []
    for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append([line.removeprefix("$ "), ""])
            else:
                found[-1][1] += line + "\n"
    return found


@pytest.fixture
def shell(tmp_path, free_ports):
    """Runs the page's commands in one folder; what is started with & is ended, by its own id, at the end."""
    socket = tmp_path / "g.sock"
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    program = bin_folder / "modelmesh"
    program.write_text(f"#!{sys.executable}\nimport sys\nfrom modelmesh.cli import main\nsys.exit(main())\n")
    program.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{bin_folder}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "src"),
        "PWD": str(tmp_path),
        "MM_SVC_GRPC_PORT": str(free_ports[0]),
        "MM_REST_PORT": "NONE",
        "MM_PROBE_PORT": str(free_ports[1]),
        "MM_PRESTOP_WAIT_PORT": str(free_ports[2]),
        "MM_METRICS": "disabled",
        "MODELMESH_ADDRESS": f"localhost:{free_ports[0]}",
    }
    started = []

    def run(line):
        line = line.replace("/tmp/greetings.sock", str(socket))  # two runs of this test may meet
        exported = re.fullmatch(r"export (.*)", line)
        if exported:
            for pair in exported[1].replace("$PWD", str(tmp_path)).split():
                name, _, value = pair.partition("=")
                environment[name] = value
            return ""
        if line.endswith(" &"):
            with (tmp_path / f"log{len(started)}").open("wb") as log:
                started.append(
                    subprocess.Popen(
                        line.removesuffix(" &").split(), cwd=tmp_path, env=environment, stdout=log, stderr=log
                    )
                )
            return ""
        deadline = time.monotonic() + 30
        while True:  # a reader types slower than a server starts
            finished = subprocess.run(
                line, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
            )
            if not finished.returncode or time.monotonic() > deadline:
                break
            time.sleep(0.3)
        logs = "".join(log.read_text() for log in sorted(tmp_path.glob("log*")))
        assert finished.returncode == 0, f"{line}\n{finished.stdout}{finished.stderr}\n{logs}"
        return finished.stdout

    yield run
    for process in reversed(started):
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert [process.returncode for process in started] == [0] * len(started)


@pytest.fixture
def free_ports():
    import socket

    sockets = [socket.socket() for _ in range(3)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.mark.process
@pytest.mark.timeout(180)
def test_the_tutorial_works_as_written(shell, tmp_path, free_ports):
    assert shutil.which("sh")
    for name in ("greeter.proto", "runtime.py", "client.py"):
        text = saved(name)
        if name == "client.py":
            text = text.replace("localhost:8033", f"localhost:{free_ports[0]}")
        (tmp_path / name).write_text(text)
    ran = 0
    for command, expected in commands():
        if command.startswith("pip install"):
            continue
        output = shell(command)
        assert expected in output
        if "conformance" in command:
            promised = re.search(r"```text\n(.*?)```", PAGE, re.DOTALL)[1]
            assert output.endswith(promised), output
        ran += 1
    assert ran == 9
