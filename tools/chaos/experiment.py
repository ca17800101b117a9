"""One fault injected into a server under load, and the result for its clients."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from styleclip_client import Client
from tools.chaos.faults import Fault
from tools.chaos.load import ANSWERED, PHOTOS, Load, Outcome, count_outcomes
from tools.chaos.server import Server

HEAL_SECONDS = 10  # target: a fault must be healed within this time
LOAD_SHARE = 0.4  # of the server's capacity; the rest is left for healing
SKIPPED = "skipped"
SIGTERM = "SIGTERM under load"  # name of the fault
# Errors that a client may see and retry. Any other name is the server's fault.
RETRYABLE = {"ServerBusy", "ServerUnavailable"}


@dataclass
class Result:
    """The result of one fault.

    Attributes:
        name: the fault.
        single: outcomes of clients that send each request once, by name.
        retrying: outcomes of clients that retry, by name.
        healed: seconds from the end of the fault's cause to the last failure; None: not healed.
        memory: MB before and after.
        note: what else was measured; starts with `SKIPPED` when the fault was not injected.
        messages: distinct error messages.
        slow: the p99 of accepted requests was more than twice the unloaded one.
    """

    name: str
    single: dict[str, int] = field(default_factory=dict)
    retrying: dict[str, int] = field(default_factory=dict)
    healed: float | None = None
    memory: tuple[float, float] = (0, 0)
    note: str = ""
    messages: list[str] = field(default_factory=list)
    slow: bool = False

    @property
    def passed(self) -> bool:
        """Whether every target was met."""
        if self.note.startswith(SKIPPED):
            return True
        untyped = set(self.single) - RETRYABLE - {ANSWERED}
        failed = set(self.retrying) - {ANSWERED}
        late = self.healed is None or self.healed > HEAL_SECONDS
        return not (untyped or failed or late or self.slow)


def measure_capacity(server: Server) -> float:
    """Return how many edits the server does per second, one after the other."""
    with Client(server.grpc) as client:
        edits = [preset.edit for preset in client.domain().presets]
        for edit in edits:
            client.direction(edit)
        start = time.monotonic()
        for i in range(20):
            client.edit_photo(PHOTOS[i % len(PHOTOS)], edits[i % len(edits)])
        return 20 / (time.monotonic() - start)


def run_fault(server: Server, fault: Fault, rate: float) -> Result:
    """Inject `fault` while clients send `rate` requests per second, and wait for recovery."""
    memory_before = server.memory()
    with (
        Load(server.grpc, rate / 2, retries=0) as single,
        Load(server.grpc, rate / 2, retries=12, timeout=60) as retrying,
    ):
        time.sleep(3)
        start = time.monotonic()
        fault.inject(server)
        end = time.monotonic()
        healed = wait_until_healed(single.outcomes, end)
        time.sleep(3)
    single_outcomes = [outcome for outcome in single.outcomes if outcome.end >= start]
    retrying_outcomes = [outcome for outcome in retrying.outcomes if outcome.end >= start]
    failures = [outcome for outcome in single_outcomes if outcome.kind != ANSWERED]
    if healed is not None:  # a failure may come after the first answers
        healed = max(0.0, max((failure.end for failure in failures), default=end) - end)
    time.sleep(2)
    return Result(
        name=fault.name,
        single=count_outcomes(single_outcomes),
        retrying=count_outcomes(retrying_outcomes),
        healed=healed,
        memory=(memory_before, server.memory()),
        messages=sorted({f"{failure.kind}: {failure.message}"[:200] for failure in failures}),
    )


def wait_until_healed(outcomes: list[Outcome], end: float, seconds: float = 90) -> float | None:
    """Wait until the last three requests that started after `end` were answered.

    Returns:
        Seconds since `end`, or None if that took more than `seconds`.
    """
    while time.monotonic() < end + seconds:
        after = sorted((o for o in outcomes if o.start >= end), key=lambda o: o.start)
        if len(after) >= 3 and all(outcome.kind == ANSWERED for outcome in after[-3:]):
            return time.monotonic() - end
        time.sleep(0.1)
    return None


def run_sigterm(server: Server, rate: float) -> Result:
    """Stop the server with SIGTERM under load: running requests are answered, new ones refused."""
    memory_before = server.memory()
    with Load(server.grpc, 2 * rate, retries=0) as load:
        time.sleep(3)
        start = time.monotonic()
        stop_seconds = server.stop()
        time.sleep(1)
    running = [outcome for outcome in load.outcomes if outcome.start < start <= outcome.end]
    later = [outcome for outcome in load.outcomes if outcome.start >= start]
    counts = ", ".join(f"{count} {kind}" for kind, count in count_outcomes(running).items())
    return Result(
        name=SIGTERM,
        single=count_outcomes(later),
        healed=0.0,
        memory=(memory_before, 0),
        note=f"of {len(running)} running: {counts}; stopped after {stop_seconds:.1f} s",
        messages=sorted({outcome.message for outcome in running if outcome.message}),
    )
