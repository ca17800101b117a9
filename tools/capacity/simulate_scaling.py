"""The autoscaler under a given load: the HPA's rule on simulated servers.

Each server is a queue with one worker. An edit takes 1/--capacity seconds on average (as
tools/capacity/measure_queue.py measures it); an edit that would wait longer than Triton's queues
allow is refused. Clients balance over the ready servers. The rule is Kubernetes' own with the
settings of docker/kubernetes: every 15 s, servers × (wait / target), rounded up, within the
policies of the manifest. Hours of load are simulated in seconds.
"""

from __future__ import annotations

import math
import random
import sys
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import click
import yaml
from rich.console import Console
from rich.table import Table

HPA = Path(__file__).resolve().parents[2] / "docker/kubernetes/components/autoscaling/hpa.yaml"
SYNC_SECONDS = 15.0  # interval of the autoscaler
WINDOW_SECONDS = 60.0  # over which Prometheus averages
MAX_WAIT = 3.3  # seconds; beyond it a queue is full (`make chaos`, Triton's own port)
# The share of a wait that is spent in queues, which the metric sees: Triton runs several edits at
# once, and the rest of the wait is slower computing (tools/capacity/measure_queue.py).
QUEUE_SHARE = 0.45
MAX_RATIO = 2.0  # the query's clamp_max, in targets
TOLERANCE = 0.1  # ratios closer to 1 change nothing


@dataclass
class HpaRule:
    """The settings of the HorizontalPodAutoscaler manifest. Times in seconds."""

    target: float
    min_replicas: int
    max_replicas: int
    max_growth: float  # factor per `growth_period`
    growth_period: float
    stabilization: float  # scale-down window
    min_shrink: float  # factor per `shrink_period`
    shrink_period: float

    @classmethod
    def read(cls, path: Path = HPA) -> HpaRule:
        """Read the manifest."""
        spec = yaml.safe_load(path.read_text())["spec"]
        (metric,) = spec["metrics"]
        up, down = spec["behavior"]["scaleUp"], spec["behavior"]["scaleDown"]
        return cls(
            target=int(metric["pods"]["target"]["averageValue"].removesuffix("m")) / 1000,
            min_replicas=spec["minReplicas"],
            max_replicas=spec["maxReplicas"],
            max_growth=1 + up["policies"][0]["value"] / 100,
            growth_period=up["policies"][0]["periodSeconds"],
            stabilization=down["stabilizationWindowSeconds"],
            min_shrink=1 - down["policies"][0]["value"] / 100,
            shrink_period=down["policies"][0]["periodSeconds"],
        )


@dataclass
class SimulatedServer:
    """A simulated server."""

    ready_at: float
    free_at: float = 0.0
    waits: deque[tuple[float, float]] = field(default_factory=deque)  # (end, wait)

    def serve(self, now: float, seconds: float) -> float | None:
        """Accept an edit that takes `seconds`; return its wait, or None when it is refused."""
        wait = max(self.free_at - now, 0.0)
        if wait > MAX_WAIT:
            return None
        self.free_at = now + wait + seconds
        self.waits.append((self.free_at, wait))
        return wait

    def mean_queue_wait(self, now: float) -> float:
        """Return the metric, the mean queue wait of edits that ended in the last minute."""
        while self.waits and self.waits[0][0] < now - WINDOW_SECONDS:
            self.waits.popleft()
        waits = [wait for end, wait in self.waits if end <= now]
        return QUEUE_SHARE * sum(waits) / len(waits) if waits else 0.0


@dataclass
class Autoscaler:
    """Kubernetes' algorithm with the settings of `rule`."""

    rule: HpaRule
    desired: deque[tuple[float, int]] = field(default_factory=deque)
    counts: deque[tuple[float, int]] = field(default_factory=deque)

    def decide(self, now: float, servers: list[SimulatedServer]) -> int:
        """Return the number of replicas."""
        rule, count = self.rule, len(servers)
        desired = self._desired_replicas(now, servers)
        self.desired.append((now, desired))
        self.counts.append((now, count))
        while self.desired[0][0] < now - rule.stabilization:
            self.desired.popleft()
        while self.counts[0][0] < now - max(rule.growth_period, rule.shrink_period):
            self.counts.popleft()
        if desired > count:
            base = min(n for t, n in self.counts if t >= now - rule.growth_period)
            return max(count, min(desired, math.ceil(base * rule.max_growth)))
        stable = max(n for _, n in self.desired)
        base = max(n for t, n in self.counts if t >= now - rule.shrink_period)
        return min(count, max(stable, int(base * rule.min_shrink)))

    def _desired_replicas(self, now: float, servers: list[SimulatedServer]) -> int:
        rule, count = self.rule, len(servers)
        ready = [server for server in servers if server.ready_at <= now]
        ratios = [min(s.mean_queue_wait(now) / rule.target, MAX_RATIO) for s in ready]
        ratio = sum(ratios) / len(ratios)
        desired = count
        if abs(ratio - 1) > TOLERANCE:
            # Servers that are starting count as idle when scaling up, else as on target.
            starting = 0 if ratio > 1 else count - len(ready)
            desired = math.ceil(len(ready) * ratio + starting)
            desired = max(desired, count) if ratio > 1 else min(desired, count)
        return min(max(desired, rule.min_replicas), rule.max_replicas)


@dataclass
class SimulatedEdit:
    """Start time, number of servers at that time, wait (None: refused)."""

    start: float
    servers: int
    wait: float | None


def simulate(
    rates: list[tuple[float, float]],
    service_seconds: float,
    spread: float,
    start_seconds: float,
    rule: HpaRule,
    seed: int = 1,
) -> list[SimulatedEdit]:
    """Simulate a load.

    Args:
        rates: (end time, edits per second) of each phase.
        service_seconds: mean time of an edit.
        spread: σ of the logarithm of that time.
        start_seconds: time until a new server is ready.
    """
    rng = random.Random(seed)
    fitting = math.ceil(rates[0][1] * service_seconds / 0.7)
    count = min(max(fitting, rule.min_replicas), rule.max_replicas)
    servers = [SimulatedServer(0.0) for _ in range(count)]
    autoscaler = Autoscaler(rule)
    edits: list[SimulatedEdit] = []
    now, next_sync, turn, ready = 0.0, SYNC_SECONDS, 0, servers
    for end, rate in rates:
        while now < end:
            now += rng.expovariate(rate)
            while next_sync <= now:
                count = autoscaler.decide(next_sync, servers)
                servers += [
                    SimulatedServer(next_sync + start_seconds) for _ in range(count - len(servers))
                ]
                del servers[count:]  # they finish the edits that they have accepted
                ready = [server for server in servers if server.ready_at <= next_sync]
                next_sync += SYNC_SECONDS
            turn += 1
            seconds = rng.lognormvariate(math.log(service_seconds) - spread**2 / 2, spread)
            wait = ready[turn % len(ready)].serve(now, seconds)
            edits.append(SimulatedEdit(now, len(servers), wait))
    return edits


def summarize(edits: list[SimulatedEdit]) -> tuple[str, str, str]:
    """Return p50 and p95 of the waits in ms, and the share that was refused."""
    waits = sorted(edit.wait for edit in edits if edit.wait is not None)
    p50, p95 = (f"{1000 * waits[int(p * len(waits))]:.0f}" if waits else "" for p in (0.5, 0.95))
    return p50, p95, f"{1 - len(waits) / len(edits):.1%}"


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--capacity", default=5.0, help="Edits per second of one server.")
@click.option("--spread", default=0.5, help="σ of the logarithm of the time of an edit.")
@click.option("--start", default=30.0, help="Seconds until a new server is ready.")
@click.option("--target", type=float, help="Seconds of wait.  [default: the manifest's]")
@click.option("--minutes", default=40.0, help="Length of each steady load.")
def main(
    capacity: float, spread: float, start: float, target: float | None, minutes: float
) -> None:
    """Report how many servers a load gets and how long its edits wait."""
    rule, console = HpaRule.read(), Console(highlight=False)
    rule.max_replicas = 256
    rule.target = target or rule.target
    waits = ("wait p50 ms", "p95 ms", "refused")
    table = Table("edits/s", "busy servers", "servers", "from", "to", *waits, box=None,
                  title="steady load, second half")  # fmt: skip
    for factor in (1, 2, 4, 8, 16, 32):
        rate = factor * capacity * 0.9
        edits = simulate([(minutes * 60, rate)], 1 / capacity, spread, start, rule)
        second_half = edits[len(edits) // 2 :]
        counts = [edit.servers for edit in second_half]
        table.add_row(f"{rate:.1f}", f"{rate / capacity:.1f}", f"{sum(counts) / len(counts):.1f}",
                      str(min(counts)), str(max(counts)), *summarize(second_half))  # fmt: skip
    console.print(table)
    low, high = capacity * 1.2, capacity * 9.0
    edits = simulate([(600, low), (1800, high), (5400, low)], 1 / capacity, spread, start, rule)
    table = Table("minute", "edits/s", "servers", *waits, box=None,
                  title=f"\n{low:.1f} edits/s, {high:.1f} from minute 10 to 30")  # fmt: skip
    for minute in (9, 10, 11, 12, 13, 14, 15, 17, 20, 29, 30, 35, 40, 50, 60, 89):
        part = [edit for edit in edits if minute * 60 <= edit.start < minute * 60 + 60]
        table.add_row(str(minute), f"{len(part) / 60:.1f}", str(part[-1].servers), *summarize(part))
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
