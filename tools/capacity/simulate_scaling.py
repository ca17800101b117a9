"""What the autoscaler does under a given load: the HPA's rule on simulated servers.

Each server is a queue before one worker, which is busy 1/--most seconds for an edit (what
tools/capacity/measure_queue.py measured), more or less by chance; who would wait longer than
Triton's queues allow is refused. Clients take turns among the servers that are ready. The rule and
its settings are Kubernetes' own and those of docker/kubernetes: every 15 s, servers x (wait /
target), rounded up, within the policies of the manifest. Hours take seconds.
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
SYNC = 15.0  # seconds between two looks of the autoscaler
WINDOW = 60.0  # seconds over which Prometheus takes the mean
LONGEST = 3.3  # seconds: who would wait longer finds a queue full (make chaos, Triton's own port)
# Of a wait so much is in the queues, where the metric sees it: Triton has several edits under way,
# and the rest of the wait is that each is computed more slowly (tools/capacity/measure_queue.py).
SEEN = 0.45
CAP = 2.0  # no wait counts as more than so many targets: the query's clamp_max
TOLERANCE = 0.1  # a ratio nearer to 1 changes nothing


@dataclass
class Rule:
    """The HPA of the manifest."""

    target: float
    least: int
    most: int
    grow: float  # at most by this factor ...
    grow_seconds: float  # ... in this time
    calm: float  # seconds whose highest wish counts before servers go
    shrink: float  # at most to this part ...
    shrink_seconds: float  # ... in this time

    @classmethod
    def read(cls, path: Path = HPA) -> Rule:
        spec = yaml.safe_load(path.read_text())["spec"]
        (metric,) = spec["metrics"]
        up, down = spec["behavior"]["scaleUp"], spec["behavior"]["scaleDown"]
        return cls(
            target=int(metric["pods"]["target"]["averageValue"].removesuffix("m")) / 1000,
            least=spec["minReplicas"],
            most=spec["maxReplicas"],
            grow=1 + up["policies"][0]["value"] / 100,
            grow_seconds=up["policies"][0]["periodSeconds"],
            calm=down["stabilizationWindowSeconds"],
            shrink=1 - down["policies"][0]["value"] / 100,
            shrink_seconds=down["policies"][0]["periodSeconds"],
        )


@dataclass
class Server:
    ready: float
    free: float = 0.0  # when it has done what it has taken
    waits: deque[tuple[float, float]] = field(default_factory=deque)  # (when done, wait)

    def serve(self, now: float, service: float) -> float | None:
        """Takes an edit; its wait, or None when it is refused."""
        wait = max(self.free - now, 0.0)
        if wait > LONGEST:
            return None
        self.free = now + wait + service
        self.waits.append((self.free, wait))
        return wait

    def mean_wait(self, now: float) -> float:
        """What Prometheus says: of edits done in the last minute, the part that it sees."""
        while self.waits and self.waits[0][0] < now - WINDOW:
            self.waits.popleft()
        done = [wait for end, wait in self.waits if end <= now]
        return SEEN * sum(done) / len(done) if done else 0.0


@dataclass
class Autoscaler:
    rule: Rule
    wishes: deque[tuple[float, int]] = field(default_factory=deque)
    counts: deque[tuple[float, int]] = field(default_factory=deque)

    def decide(self, now: float, servers: list[Server]) -> int:
        """How many servers there shall be."""
        rule, count = self.rule, len(servers)
        waits = [min(s.mean_wait(now) / rule.target, CAP) for s in servers if s.ready <= now]
        ratio = sum(waits) / len(waits)
        wish = count
        if abs(ratio - 1) > TOLERANCE:
            # Servers that only start count as idle where more are wanted, else as well used.
            starting = 0 if ratio > 1 else count - len(waits)
            wish = math.ceil(len(waits) * ratio + starting)
            wish = max(wish, count) if ratio > 1 else min(wish, count)
        wish = min(max(wish, rule.least), rule.most)
        self.wishes.append((now, wish))
        self.counts.append((now, count))
        while self.wishes[0][0] < now - rule.calm:
            self.wishes.popleft()
        while self.counts[0][0] < now - max(rule.grow_seconds, rule.shrink_seconds):
            self.counts.popleft()
        if wish > count:
            before = min(n for t, n in self.counts if t >= now - rule.grow_seconds)
            return max(count, min(wish, math.ceil(before * rule.grow)))
        calm = max(wish for _, wish in self.wishes)
        before = max(n for t, n in self.counts if t >= now - rule.shrink_seconds)
        return min(count, max(calm, int(before * rule.shrink)))


@dataclass
class Edit:
    at: float
    servers: int
    wait: float | None


def simulate(rates: list[tuple[float, float]], service: float, spread: float, start: float,
             rule: Rule, seed: int = 1) -> list[Edit]:  # fmt: skip
    """What edits meet under `rates`: (until when, edits a second)."""
    chance = random.Random(seed)
    fitting = math.ceil(rates[0][1] * service / 0.7)
    servers = [Server(0.0) for _ in range(min(max(fitting, rule.least), rule.most))]
    autoscaler, edits = Autoscaler(rule), []
    now, look, turn, ready = 0.0, SYNC, 0, servers
    for until, rate in rates:
        while now < until:
            now += chance.expovariate(rate)
            while look <= now:
                wish = autoscaler.decide(look, servers)
                servers += [Server(look + start) for _ in range(wish - len(servers))]
                del servers[wish:]  # what they have taken, they finish
                ready = [s for s in servers if s.ready <= look]
                look += SYNC
            turn += 1
            took = chance.lognormvariate(math.log(service) - spread**2 / 2, spread)
            edits.append(Edit(now, len(servers), ready[turn % len(ready)].serve(now, took)))
    return edits


def told(edits: list[Edit]) -> tuple[str, str, str]:
    """Half and nearly all of the edits wait at most so many ms; and the part that is refused."""
    waits = sorted(edit.wait for edit in edits if edit.wait is not None)
    p50, p95 = (f"{1000 * waits[int(p * len(waits))]:.0f}" if waits else "" for p in (0.5, 0.95))
    return p50, p95, f"{1 - len(waits) / len(edits):.1%}"


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--most", default=5.0, help="Edits a second that one server can do.")
@click.option("--spread", default=0.5, help="How much their times differ (σ of the logarithm).")
@click.option("--start", default=30.0, help="Seconds from the wish for a server to its first edit.")
@click.option("--target", type=float, help="Seconds of wait.  [default: the manifest's]")
@click.option("--minutes", default=40.0, help="Length of each load.")
def main(most: float, spread: float, start: float, target: float | None, minutes: float) -> None:
    """Tell how many servers a load gets, and how long its edits wait."""
    rule, console = Rule.read(), Console(highlight=False)
    rule.most = 256
    rule.target = target or rule.target
    waits = ("wait p50 ms", "p95 ms", "refused")
    table = Table("edits/s", "busy servers", "servers", "from", "to", *waits, box=None,
                  title="steady load, second half")  # fmt: skip
    for times in (1, 2, 4, 8, 16, 32):
        rate = times * most * 0.9
        edits = simulate([(minutes * 60, rate)], 1 / most, spread, start, rule)
        later = edits[len(edits) // 2 :]
        counts = [edit.servers for edit in later]
        table.add_row(f"{rate:.1f}", f"{rate / most:.1f}", f"{sum(counts) / len(counts):.1f}",
                      str(min(counts)), str(max(counts)), *told(later))  # fmt: skip
    console.print(table)
    low, high = most * 1.2, most * 9.0
    edits = simulate([(600, low), (1800, high), (5400, low)], 1 / most, spread, start, rule)
    table = Table("minute", "edits/s", "servers", *waits, box=None,
                  title=f"\n{low:.1f} edits/s, {high:.1f} from minute 10 to 30")  # fmt: skip
    for minute in (9, 10, 11, 12, 13, 14, 15, 17, 20, 29, 30, 35, 40, 50, 60, 89):
        part = [edit for edit in edits if minute * 60 <= edit.at < minute * 60 + 60]
        table.add_row(str(minute), f"{len(part) / 60:.1f}", str(part[-1].servers), *told(part))
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
