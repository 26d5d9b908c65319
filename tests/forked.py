"""Kernels forked from a process that has imported the large libraries: each is new, none spends seconds on importing torch."""

import os
import sys
import time
from functools import cache
from multiprocessing import forkserver, get_context
from pathlib import Path
from unittest.mock import patch

LIBRARIES = [
    *("torch", "torchaudio", "torchvision", "matplotlib.pyplot", "pandas", "seaborn"),
    *("sklearn.linear_model", "scipy.signal", "ipykernel.kernelapp", "nbformat"),
]


@cache
def forks():
    """Where forks come from: a process that has imported the libraries, as a kernel would."""
    forkserver.set_forkserver_preload(LIBRARIES)
    with patch.dict(os.environ, MPLBACKEND="module://matplotlib_inline.backend_inline"):
        forkserver.ensure_running()
    return get_context("forkserver")


def kernel(arguments: list, cwd: str, env: dict):
    """Becomes the kernel that Jupyter asks for; it sees what a command line would show it."""
    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    tests = str(Path(__file__).parent)
    sys.path[:] = [place for place in sys.path if place != tests]
    from ipykernel.kernelapp import IPKernelApp

    IPKernelApp.launch_instance(arguments)


class Forked:
    """A forked kernel, with what Jupyter needs of a process that subprocess would have started."""

    stdin = stdout = stderr = None

    def __init__(self, command: list, *, cwd=None, env=None, **_):
        arguments = command[command.index("-m") + 2 :]  # after "-m ipykernel_launcher"
        where, env = str(cwd or Path.cwd()), dict(os.environ if env is None else env)
        env["JPY_PARENT_PID"] = str(os.getpid())  # a kernel whose tests were killed ends by itself
        self.process = forks().Process(target=kernel, args=(arguments, where, env))
        self.process.start()
        self.pid = self.process.pid
        # Jupyter stops the kernel's group, which must not be that of the tests
        while self.poll() is None and os.getpgid(self.pid) != self.pid:
            time.sleep(0.01)

    def poll(self):
        return self.process.exitcode

    def wait(self):
        self.process.join()
        return self.poll()

    def send_signal(self, number: int):
        os.kill(self.pid, number)
