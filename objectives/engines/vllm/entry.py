"""The entry point of the process that runs vLLM."""

import os
import signal
import sys
from multiprocessing.connection import Connection


def run_server(connection: Connection) -> None:
    """Set up the new process, then serve until the connection is closed."""
    os.setsid()
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # stdout is reserved for results
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    from objectives.engines.vllm.server import serve

    serve(connection)
