"""All lanes at work until no photo is left, whatever servers do meanwhile."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field

from styleclip_client.batch.job import Task
from styleclip_client.batch.workers import Lane, Outcome
from styleclip_contract.errors import ServerUnavailable

CHANCES = 3  # failures of working servers at one photo, before it is the photo that failed
PATIENCE = 120.0  # seconds without any server: a restart and a rollout take less
_LONGEST_REST = 15.0


@dataclass(eq=False)
class _Place:
    """A lane and how it does. After a failure it rests, then tries one photo alone."""

    lane: Lane
    busy: int = 0
    failures: int = 0  # in a row
    rests_until: float = 0.0

    def room(self, concurrency: int, now: float) -> bool:
        return now >= self.rests_until and self.busy < (1 if self.failures else concurrency)

    def failed(self, now: float) -> None:
        self.failures += 1
        self.rests_until = now + min(2.0 ** (self.failures - 1), _LONGEST_REST)


@dataclass
class Scheduler:
    """Hands photos to whichever lane has room, so a quick server gets more of them."""

    lanes: Sequence[Lane]
    concurrency: int
    patience: float = PATIENCE
    _at_work: dict[Future[Outcome], tuple[_Place, bool]] = field(default_factory=dict)

    def run(self, tasks: Sequence[Task]) -> Iterator[Outcome]:
        """What became of each photo, as they end.

        Raises:
            ServerUnavailable: no lane has done anything for `patience` seconds; the photos that
                were not told of are not done.
        """
        places = [_Place(lane) for lane in self.lanes]
        waiting = deque(tasks)
        charged: dict[Task, int] = {}
        last_answer = time.monotonic()
        while waiting or self._at_work:
            now = time.monotonic()
            self._hand_out(waiting, places, now)
            for outcome, place, healthy in self._ended(places, now):
                now = time.monotonic()
                if not outcome.trouble:
                    place.failures, last_answer = 0, now
                    charged.pop(outcome.task, None)
                    yield outcome
                    continue
                # A server that was there, or had been until then: it may be the photo.
                if outcome.trouble == "failed" or (outcome.trouble == "lost" and healthy):
                    charged[outcome.task] = charged.get(outcome.task, 0) + 1
                if not place.failures or not healthy:
                    place.failed(now)
                if charged.get(outcome.task, 0) >= CHANCES:
                    yield outcome
                elif now - last_answer > self.patience:
                    raise ServerUnavailable(
                        f"no server has done anything for {self.patience:g} s; the last to fail "
                        f"({outcome.server}) said: {outcome.error}"
                    )
                else:
                    waiting.append(outcome.task)

    def _hand_out(self, waiting: deque[Task], places: Sequence[_Place], now: float) -> None:
        while waiting:
            free = [place for place in places if place.room(self.concurrency, now)]
            if not free:
                return
            place = min(free, key=lambda place: place.busy)
            future = place.lane.submit(waiting.popleft())
            self._at_work[future] = (place, place.failures == 0)
            place.busy += 1

    def _ended(
        self, places: Sequence[_Place], now: float
    ) -> Iterator[tuple[Outcome, _Place, bool]]:
        """The outcomes that are there, once there is one or a lane has rested."""
        rests = [place.rests_until - now for place in places if place.rests_until > now]
        pause = max(min(rests), 0.01) if rests else None
        if not self._at_work:
            time.sleep(pause or 0)
            return
        for future in wait(self._at_work, pause, FIRST_COMPLETED).done:
            place, healthy = self._at_work.pop(future)
            place.busy -= 1
            yield future.result(), place, healthy
