"""The lock of the queue, which nobody may take twice."""

import threading

queue_lock = threading.Lock()
