"""Workers of xdist that begin with the libraries loaded: to load them takes ten times as long as their own work."""

from __future__ import annotations

import os
import sys
from multiprocessing.connection import Connection
from pathlib import Path

from execnet.gateway_base import ExecModel, Popen2IO
from execnet.gateway_io import Popen2IOMaster, popen_bootstrapline
from forking import new_processes


class ForkedWorker(Popen2IOMaster):
    """In the place of what execnet starts a worker by and talks with it."""

    def __init__(self, _command: list[str], execmodel: ExecModel) -> None:
        context = new_processes()
        orders, to_worker = context.Pipe(duplex=False)
        from_worker, answers = context.Pipe(duplex=False)
        self.worker = context.Process(target=_work, args=(orders, answers, dict(os.environ), Path.cwd()))
        self.worker.start()
        orders.close()
        answers.close()
        ends = [os.fdopen(os.dup(end.fileno()), mode) for end, mode in ((to_worker, "wb"), (from_worker, "rb"))]
        Popen2IO.__init__(self, *ends, execmodel)

    def wait(self) -> int | None:
        self.worker.join()
        return self.worker.exitcode

    def kill(self) -> None:
        self.worker.kill()


def _work(orders: Connection, answers: Connection, environment: dict[str, str], folder: Path) -> None:
    """What execnet's command does in a process of its own, in this folder and environment."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for standard, given in enumerate((orders, answers)):
        os.dup2(given.fileno(), standard)
        given.close()
    sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)
    sys.argv = ["-c"]
    exec(popen_bootstrapline, {"__name__": "__main__"})
