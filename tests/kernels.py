"""Kernels of notebooks for tests: forked from one process that has imported the library, not started one by one.

A kernel takes seconds of CPU to import what a page needs, and the tests build a hundred pages. Everything else is as in
a report: papermill, the messages, the environment, the folder, signals, and a kernel that ends with who asked for it.
"""

import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from importlib.metadata import EntryPoint
from pathlib import Path

from jupyter_client.provisioning import KernelProvisionerFactory, LocalProvisioner

from beyond_accuracy.report.run import kernel_environment

IMPORTED = ("ipykernel.kernelapp", "beyond_accuracy.page", "beyond_accuracy.inference.plan")

# In the process that forks ----------------------------------------------------------------------------------------


def serve(server: socket.socket) -> None:
    """Fork a kernel, and one that waits for it, per connection; until the standard input ends."""
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    installed = [path for path in sys.path[1:] if path not in given]
    for name in IMPORTED:
        importlib.import_module(name)
    waiting = []
    while sys.stdin not in select.select([server, sys.stdin], [], [])[0]:
        connection, _ = server.accept()
        waiting = [pid for pid in waiting if os.waitpid(pid, os.WNOHANG)[0] == 0]
        if (pid := os.fork()) == 0:
            server.close()
            os._exit(_wait(connection, installed))
        waiting.append(pid)
        connection.close()


def _wait(connection: socket.socket, installed: list[str]) -> int:
    with connection.makefile("rw") as talk:
        asked = json.loads(talk.readline())
        if (kernel := os.fork()) == 0:
            talk.close()
            connection.close()
            os._exit(_kernel(installed, **asked))
        print(kernel, file=talk, flush=True)
        while (ended := os.waitpid(kernel, os.WNOHANG))[0] == 0:
            if select.select([connection], [], [], 0.05)[0]:  # nobody asks any more
                os.kill(kernel, signal.SIGKILL)
        print(os.waitstatus_to_exitcode(ended[1]), file=talk, flush=True)
    return 0


def _kernel(installed: list[str], cmd: list[str], env: dict[str, str], cwd: str) -> int:
    from ipykernel.kernelapp import IPKernelApp  # here, where it was imported before

    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ |= env | {"JPY_PARENT_PID": str(os.getppid())}
    sys.path[:] = [*filter(None, env.get("PYTHONPATH", "").split(os.pathsep)), *installed]
    sys.argv = cmd[2:]  # python -m ipykernel_launcher
    IPKernelApp.launch_instance(sys.argv[1:])
    return 0


# In the tests ---------------------------------------------------------------------------------------------------------


class Forked:
    """What a provisioner needs of `subprocess.Popen`, of a process that another one forks."""

    stdin = stdout = stderr = None

    def __init__(self, address: Path, **asked):
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.connect(str(address))
        self.talk = self.connection.makefile("rw")
        print(json.dumps(asked), file=self.talk, flush=True)
        self.pid, self.status = int(self.talk.readline()), None

    def poll(self) -> int | None:
        if self.status is None and select.select([self.connection], [], [], 0)[0]:
            self.wait()
        return self.status

    def wait(self) -> int:
        if self.status is None:
            self.status = int(self.talk.readline() or -signal.SIGKILL)
            self.talk.close()
            self.connection.close()
        return self.status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


class Provisioner(LocalProvisioner):
    """Starts the kernels of jupyter_client in that way."""

    async def launch_kernel(self, cmd: list[str], **given) -> dict:
        where = {"env": dict(given["env"]), "cwd": str(given.get("cwd") or os.getcwd())}
        self.process = Forked(Nursery.address, cmd=cmd, **where)
        self.pid = self.pgid = self.process.pid
        return self.connection_info


class Nursery:
    """The process that forks. While it is open, every kernel that this process starts is from there.

    On Linux alone: elsewhere libraries of the system do not survive a fork, and kernels are started as in a report.
    """

    address: Path
    factory = KernelProvisionerFactory.instance()

    def __init__(self):
        if sys.platform != "linux":
            self.process = None
            return
        self.folder = tempfile.TemporaryDirectory()  # the path of a socket has about 100 letters at most
        Nursery.address = Path(self.folder.name) / "socket"
        with socket.socket(socket.AF_UNIX) as server, kernel_environment():
            # threads and backends are chosen when numpy and matplotlib are imported
            server.bind(str(Nursery.address))
            server.listen()
            command = [sys.executable, __file__, str(server.fileno())]
            share = {"stdin": subprocess.PIPE, "pass_fds": [server.fileno()], "start_new_session": True}
            self.process = subprocess.Popen(command, **share)
        self.factory.provisioners["forked"] = EntryPoint("forked", "kernels:Provisioner", self.factory.GROUP_NAME)
        self.factory.default_provisioner_name = "forked"

    def close(self) -> None:
        if self.process:
            self.factory.default_provisioner_name = "local-provisioner"
            self.process.stdin.close()
            self.process.wait()
            self.folder.cleanup()


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
