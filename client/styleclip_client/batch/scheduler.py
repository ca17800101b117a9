"""Keeps all workers busy until every photo is done, while servers fail and return."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass

from styleclip_client.batch.job import Task
from styleclip_client.batch.workers import ServerFault, TaskResult, Worker
from styleclip_contract.errors import ServerUnavailable

MAX_FAILURES = 3  # of working servers at one photo, until the photo counts as failed
STALL_TIMEOUT = 120.0  # seconds without any success; a restart and a rollout take less
_MAX_PAUSE = 15.0  # seconds


@dataclass(eq=False)
class _WorkerState:
    """A worker and its health. After a failure it pauses, then tries one photo at a time."""

    worker: Worker
    running: int = 0
    failures: int = 0  # in a row
    paused_until: float = 0.0

    def has_room(self, concurrency: int, now: float) -> bool:
        return now >= self.paused_until and self.running < (1 if self.failures else concurrency)

    def pause(self, now: float) -> None:
        self.failures += 1
        self.paused_until = now + min(2.0 ** (self.failures - 1), _MAX_PAUSE)


@dataclass(frozen=True)
class _Attempt:
    """A task that was given to a worker, which was healthy then or not."""

    state: _WorkerState
    was_healthy: bool


class Scheduler:
    """Hands each photo to the worker with the most room, so a faster server gets more of them."""

    def __init__(
        self, workers: Sequence[Worker], concurrency: int, stall_timeout: float = STALL_TIMEOUT
    ) -> None:
        """Schedule on `workers`, `concurrency` photos at once on each.

        `run` fails after `stall_timeout` seconds in which no photo was done.
        """
        self._states = [_WorkerState(worker) for worker in workers]
        self._concurrency = concurrency
        self._stall_timeout = stall_timeout
        self._attempts: dict[Future[TaskResult], _Attempt] = {}

    def run(self, tasks: Sequence[Task]) -> Iterator[TaskResult]:
        """Yield the result of each task, in the order in which they end.

        Raises:
            ServerUnavailable: no worker succeeded for `stall_timeout` seconds; tasks without a
                result are not done.
        """
        waiting = deque(tasks)
        failures: Counter[Task] = Counter()
        last_success = time.monotonic()
        while waiting or self._attempts:
            now = time.monotonic()
            self._submit(waiting, now)
            for result, attempt in self._wait(now):
                if result.fault is None:
                    attempt.state.failures = 0
                    last_success = time.monotonic()
                    yield result
                    continue
                _count_failure(result, attempt, failures)
                if failures[result.task] >= MAX_FAILURES:
                    yield result
                elif time.monotonic() - last_success > self._stall_timeout:
                    raise ServerUnavailable(
                        f"no server has edited a photo for {self._stall_timeout:g} s; the last to "
                        f"fail ({result.server}) answered: {result.error}"
                    )
                else:
                    waiting.append(result.task)

    def _submit(self, waiting: deque[Task], now: float) -> None:
        while waiting:
            free = [state for state in self._states if state.has_room(self._concurrency, now)]
            if not free:
                return
            state = min(free, key=lambda state: state.running)
            future = state.worker.submit(waiting.popleft())
            self._attempts[future] = _Attempt(state, was_healthy=state.failures == 0)
            state.running += 1

    def _wait(self, now: float) -> Iterator[tuple[TaskResult, _Attempt]]:
        """Wait until a task or a pause ends; yields the tasks that ended."""
        pauses = [state.paused_until - now for state in self._states if state.paused_until > now]
        timeout = max(min(pauses), 0.01) if pauses else None
        if not self._attempts:
            time.sleep(timeout or 0)
            return
        for future in wait(self._attempts, timeout, FIRST_COMPLETED).done:
            attempt = self._attempts.pop(future)
            attempt.state.running -= 1
            yield future.result(), attempt


def _count_failure(result: TaskResult, attempt: _Attempt, failures: Counter[Task]) -> None:
    """Count a failure against the photo, the server, or both."""
    # If the server was reachable until then, the photo may be what brought it down.
    unreachable = result.fault is ServerFault.UNREACHABLE
    if result.fault is ServerFault.FAILED or (unreachable and attempt.was_healthy):
        failures[result.task] += 1
    # Tasks that a healthy worker had at once fail together, which counts once.
    if not attempt.state.failures or not attempt.was_healthy:
        attempt.state.pause(time.monotonic())
