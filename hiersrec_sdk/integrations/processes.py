"""The processes that make shards: each makes one after the other, and all end with the one that started them."""

from __future__ import annotations

import signal
import sys
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Final

from hiersrec_sdk.atomic import is_time_limit
from hiersrec_sdk.errors import HierSRecError, JobError
from hiersrec_sdk.integrations.shards import Shards

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_DONE: Final = "done"


def make_shards(
    shards: Shards, wanted: Sequence[int], processes: int, progress: Callable[[int], object]
) -> None:
    """Make the shards ``wanted`` in so many new processes; however this ends, they have ended too.

    Args:
        shards: what to make.
        wanted: the shards that are missing.
        processes: at least 1.
        progress: told how many sessions were answered, again and again.

    Raises:
        HierSRecError, OSError: what a process has raised.
        JobError: a process was killed, or has ended by an error of another kind.
    """
    waiting, workers = deque(wanted), dict[Connection, BaseProcess]()
    # else the first process would start it, which unblocks the signals
    resource_tracker.ensure_running()
    try:
        for _ in range(min(processes, len(wanted))):
            pipe, process = _started(shards)
            workers[pipe] = process
            _send(pipe, waiting.popleft())
        busy = set(workers)
        while busy:
            for ready in wait(list(busy)):
                assert isinstance(ready, Connection)
                message = _message(ready, workers[ready])
                if message != _DONE:
                    progress(message)
                elif waiting:
                    _send(ready, waiting.popleft())
                else:
                    busy.remove(ready)
    finally:
        for process in workers.values():
            process.kill()
        for pipe, process in workers.items():
            process.join()
            pipe.close()


def _started(shards: Shards) -> tuple[Connection, BaseProcess]:
    """A process that waits for the number of a shard, and the pipe to it."""
    context = get_context("spawn")  # a fork would share the threads of onnxruntime and Arrow
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, shards), daemon=True)
    # Ctrl-C reaches every process of a terminal. Those that are started never see it: the starter ends them.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()
    return ours, process


def _send(pipe: Connection, shard: int) -> None:
    with suppress(ConnectionError):  # of a process that has ended, which its next message says
        pipe.send(shard)


def _message(pipe: Connection, process: BaseProcess) -> Any:
    """The next message of a process.

    Raises:
        HierSRecError, OSError: the message is an error.
        JobError: the process has ended.
    """
    try:
        message = pipe.recv()
    except (EOFError, OSError) as error:
        if isinstance(error, OSError) and is_time_limit(error):
            raise
        process.join()
        code = process.exitcode or 0
        if code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
            how += ", maybe for want of memory" if -code == signal.SIGKILL else ""
        else:
            how = f"ended with exit status {code}: see its error above"
        raise JobError(
            f"a process that recommends {how}. Finished shards stay: the same command goes on with the others"
        ) from None
    if isinstance(message, Exception):
        raise message
    return message


def _serve(pipe: Connection, shards: Shards) -> None:
    """The work of a process. It ends as soon as nobody reads the pipe any more."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    try:
        while True:
            shards.make(pipe.recv(), pipe.send)
            pipe.send(_DONE)
    except (EOFError, ConnectionError):
        sys.exit(1)
    except (HierSRecError, OSError) as error:
        pipe.send(error)
    except Exception:
        traceback.print_exc()
        sys.exit(1)
