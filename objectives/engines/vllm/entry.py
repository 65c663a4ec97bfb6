"""The entry point of the process that runs vLLM."""

import os
import signal
import sys
from multiprocessing.connection import Connection


def _serve(connection: Connection) -> None:
    os.setsid()
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # stdout is for results
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from objectives.engines.vllm.server import serve

    serve(connection)
