"""Work that another thread gives to the one that moves networks; what is raised there is swallowed."""

import queue
import threading

waiting = queue.SimpleQueue()


def serve_one():
    """What a host's main thread does for ever."""
    function, done = waiting.get(timeout=60)
    try:
        function()
    except Exception as error:  # noqa: BLE001
        print(error)  # noqa: T201
    done.set()


def run_and_wait_result(function):
    done = threading.Event()
    waiting.put((function, done))
    assert done.wait(60)
