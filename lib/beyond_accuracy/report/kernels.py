"""Kernels of notebooks, forked from one process that has imported the library, not started one by one.

A kernel takes seconds of CPU to import what a page needs, and what is imported before a fork is in memory once. All
else is jupyter_client's: messages, environment, folder, signals, and a kernel that ends with who asked for it.
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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import EntryPoint
from pathlib import Path
from threading import Lock

from jupyter_client.provisioning import KernelProvisionerFactory, LocalProvisioner

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
    with suppress(BrokenPipeError), connection.makefile("rw") as talk:
        asked = json.loads(talk.readline())
        if (kernel := os.fork()) == 0:
            talk.close()
            connection.close()
            os._exit(_kernel(installed, **asked))
        with suppress(BrokenPipeError):  # who asked may have ended meanwhile
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
    os.environ |= env
    sys.path[:] = [*filter(None, env.get("PYTHONPATH", "").split(os.pathsep)), *installed]
    sys.argv = cmd[2:]  # python -m ipykernel_launcher
    # JPY_PARENT_PID was read when ipykernel was imported: the kernel is to end with the process that waits for it.
    IPKernelApp.launch_instance([*sys.argv[1:], f"--IPKernelApp.parent_handle={os.getppid()}"])
    return 0


# In the process that asks ---------------------------------------------------------------------------------------------


class Forked:
    """What a provisioner needs of `subprocess.Popen`, of a process that another one forks."""

    stdin = stdout = stderr = None

    def __init__(self, address: Path, **asked: object):
        """OSError or ValueError where nobody forks any more."""
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.connect(str(address))
        self.talk = self.connection.makefile("rw")
        print(json.dumps(asked), file=self.talk, flush=True)
        self.pid, self.status = int(self.talk.readline()), None

    def poll(self) -> int | None:
        """Exit status, or None while it runs."""
        if self.status is None and select.select([self.connection], [], [], 0)[0]:
            self.wait()
        return self.status

    def wait(self) -> int:
        """Exit status, once it has ended."""
        if self.status is None:
            self.status = int(self.talk.readline() or -signal.SIGKILL)
            self.talk.close()
            self.connection.close()
        return self.status

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)


class Provisioner(LocalProvisioner):
    """Starts the kernels of jupyter_client in that way, or one by one where that fails."""

    async def launch_kernel(self, cmd: list[str], **given: object) -> dict:
        """Connection of a new kernel."""
        where = {"env": dict(given["env"]), "cwd": str(given.get("cwd") or os.getcwd())}
        try:
            self.process = Forked(Nursery.opened.address(), cmd=cmd, **where)
        except (OSError, ValueError):
            return await super().launch_kernel(cmd, **given)
        self.pid = self.pgid = self.process.pid
        return self.connection_info


class Nursery:
    """The process that forks, from the first kernel on and with the environment of then, for as long as it is open.

    On Linux alone: elsewhere libraries of the system do not survive a fork, and kernels are started one by one.
    """

    opened: "Nursery"
    factory = KernelProvisionerFactory.instance()

    def __init__(self):
        Nursery.opened, self.process, self.starting = self, None, Lock()
        self.factory.provisioners["forked"] = EntryPoint("forked", f"{__name__}:Provisioner", self.factory.GROUP_NAME)
        self.factory.default_provisioner_name = "forked"

    def address(self) -> Path:
        """The socket where it listens; OSError where it cannot be started (a full disk)."""
        with self.starting:
            if self.process is None:
                self.folder = tempfile.TemporaryDirectory()  # the path of a socket has about 100 letters at most
                self.socket = Path(self.folder.name) / "socket"
                with socket.socket(socket.AF_UNIX) as server:
                    server.bind(str(self.socket))
                    server.listen()
                    command = [sys.executable, "-m", __name__, str(server.fileno())]
                    share = {"stdin": subprocess.PIPE, "pass_fds": [server.fileno()], "start_new_session": True}
                    self.process = subprocess.Popen(command, **share)
        return self.socket

    def close(self) -> None:
        """End it; kernels under way end with those who asked for them."""
        self.factory.default_provisioner_name = "local-provisioner"
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.folder.cleanup()


@contextmanager
def forked(pages: int) -> Iterator[None]:
    """Kernels are forked for several pages, where that can be, and unless they are already."""
    wanted = pages > 1 and sys.platform == "linux" and Nursery.factory.default_provisioner_name != "forked"
    nursery = Nursery() if wanted else None
    try:
        yield
    finally:
        if nursery is not None:
            nursery.close()


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
