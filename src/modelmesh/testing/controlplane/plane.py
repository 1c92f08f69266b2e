"""A Kubernetes control plane of processes: etcd, API server, controller manager and scheduler."""

import asyncio
import json
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Self

from modelmesh.testing.certificates import Authority
from modelmesh.testing.controlplane.api import FAILURES, Api
from modelmesh.testing.controlplane.namespaces import ADDRESS, NamespaceError, inside

PORT = 6443
ETCD_PORT = 2379
TOKEN = "administrator"  # noqa: S105 - of a cluster that lives as long as a test
STARTS_WITHIN_S = 120.0
STOPS_WITHIN_S = 15.0


class ControlPlaneError(RuntimeError):
    """A part did not start, or ended. The message has the end of its log."""


class ControlPlane:
    """Starts on entry, and stops on exit whatever happened.

    Args:
        program: With all parts, as `make control-plane` builds it.
        folder: For its data, its logs (`NAME.log`) and `kubeconfig`.
        address: To listen at; not loopback, because pods must reach it.
    """

    def __init__(self, program: Path, folder: Path, *, address: str = ADDRESS) -> None:
        self.program, self.folder, self.address = program, folder.absolute(), address
        self.url = f"https://{address}:{PORT}"
        self.store = f"http://{address}:{ETCD_PORT}"
        self._authority = Authority("control plane")
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._logs: dict[str, IO[bytes]] = {}

    @property
    def authority(self) -> bytes:
        """PEM of what signed the API server's certificate."""
        return self._authority.pem

    @property
    def kubeconfig(self) -> Path:
        """Of the administrator."""
        return self.folder / "kubeconfig"

    def api(self, token: str = TOKEN) -> Api:
        """A client, as the identity of a token."""
        return Api(self.url, token, self.authority)

    async def __aenter__(self) -> Self:
        if not inside():
            raise NamespaceError("start the tests by: python -m modelmesh.testing.controlplane.namespaces COMMAND…")
        self._write_files()
        try:
            self.start("etcd")
            self.start("kube-apiserver")
            await self._answers("/readyz")
            self.start("kube-controller-manager")
            self.start("kube-scheduler")
            await self._answers("/api/v1/namespaces/default/serviceaccounts/default")
        except BaseException:
            self._stop_all()
            raise
        return self

    async def __aexit__(self, *_error: object) -> None:
        self._stop_all()

    def start(self, name: str) -> None:
        """Start one part."""
        if name not in self._logs:
            self._logs[name] = (self.folder / f"{name}.log").open("ab")
        log = self._logs[name]
        words = [str(self.program), name, *self._flags(name)]
        self._processes[name] = subprocess.Popen(words, stdout=log, stderr=log, cwd=self.folder)  # noqa: S603

    def stop(self, name: str) -> None:
        """Stop one part: by SIGTERM, after a while by SIGKILL."""
        process = self._processes.pop(name)
        process.terminate()
        try:
            process.wait(STOPS_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    async def restart_api_server(self) -> None:
        """Stop it and start it; returns when it answers."""
        self.stop("kube-apiserver")
        self.start("kube-apiserver")
        await self._answers("/readyz")

    async def kubectl(self, *words: str, given: str = "") -> str:
        """Run kubectl as the administrator; returns what it printed.

        Args:
            words: Its arguments.
            given: Its standard input.

        Raises:
            ControlPlaneError: It failed; the message is what it printed.
        """
        process = await asyncio.create_subprocess_exec(
            str(self.program),
            "kubectl",
            "--kubeconfig",
            str(self.kubeconfig),
            *words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        printed, _ = await asyncio.wait_for(process.communicate(given.encode()), 120)
        if process.returncode:
            raise ControlPlaneError(printed.decode(errors="replace"))
        return printed.decode()

    async def _answers(self, where: str) -> None:
        """Wait until the API server answers well there, within a bound and while all parts run."""
        late = time.monotonic() + STARTS_WITHIN_S
        problem: Exception | None = None
        async with self.api() as api:
            while time.monotonic() < late:
                for name, process in self._processes.items():
                    if process.poll() is not None:
                        raise ControlPlaneError(f"{name} ended with {process.returncode}: {self._end_of_log(name)}")
                try:
                    await api.call("GET", where, timeout_s=2.0)
                except FAILURES as error:
                    problem = error
                    await asyncio.sleep(0.1)
                else:
                    return
        raise ControlPlaneError(f"{where} did not answer within {STARTS_WITHIN_S:.0f} s: {problem}")

    def _end_of_log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")[-2000:]

    def _stop_all(self) -> None:
        for name in reversed(list(self._processes)):
            self.stop(name)
        for log in self._logs.values():
            log.close()
        self._logs.clear()

    def _write_files(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        names = (self.address, "127.0.0.1", "localhost", "kubernetes.default.svc")
        self._authority.issue(*names).write(self.folder)
        (self.folder / "authority.crt").write_bytes(self.authority)
        self._authority.issue("accounts").write(self.folder / "accounts")
        (self.folder / "tokens.csv").write_text(f"{TOKEN},admin,admin,system:masters\n")
        cluster = {"server": self.url, "certificate-authority": str(self.folder / "authority.crt")}
        configuration = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "admin", "user": {"token": TOKEN}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
        }
        self.kubeconfig.write_text(json.dumps(configuration))

    def _flags(self, name: str) -> Sequence[str]:
        client = (
            f"--kubeconfig={self.kubeconfig}",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            "--authentication-skip-lookup",
        )
        accounts = self.folder / "accounts"
        return {
            "etcd": (
                f"--data-dir={self.folder / 'etcd'}",
                f"--listen-client-urls={self.store}",
                f"--advertise-client-urls={self.store}",
                "--listen-peer-urls=http://127.0.0.1:2380",
                "--unsafe-no-fsync",
                "--log-level=warn",
            ),
            "kube-apiserver": (
                f"--etcd-servers={self.store}",
                f"--bind-address={self.address}",
                f"--advertise-address={self.address}",
                f"--secure-port={PORT}",
                f"--tls-cert-file={self.folder / 'tls.crt'}",
                f"--tls-private-key-file={self.folder / 'tls.key'}",
                f"--token-auth-file={self.folder / 'tokens.csv'}",
                "--authorization-mode=RBAC",
                "--service-cluster-ip-range=10.96.0.0/16",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-key-file={accounts / 'tls.crt'}",
                f"--service-account-signing-key-file={accounts / 'tls.key'}",
                "--endpoint-reconciler-type=none",
                "--profiling=false",
            ),
            "kube-controller-manager": (
                *client,
                "--use-service-account-credentials=false",
                f"--service-account-private-key-file={accounts / 'tls.key'}",
                f"--root-ca-file={self.folder / 'authority.crt'}",
            ),
            "kube-scheduler": client,
        }[name]
