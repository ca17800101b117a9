"""The lanes of a Ray cluster: photos are read, sent and written by its machines.

Each server gets an actor somewhere in the cluster. The machines reach the photos themselves, so
these are in an object store or in a folder that all of them have; nothing but names passes
through the machine that gives the command. A machine that dies costs the photos it had at work,
which are begun again elsewhere.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError

from styleclip_client.batch.job import Task
from styleclip_client.batch.workers import Outcome, Reach, Work
from styleclip_contract.errors import ClusterUnavailable

LOCAL = "local"  # a cluster of this machine alone, for as long as the batch lasts
_CONNECT = 5.0  # seconds to reach the cluster
_START = 120.0  # seconds for an actor to begin


class _Carrier:
    """The actor: one server's client."""

    def __init__(self, url: str, reach: Reach, work: Work) -> None:
        self._client, self._work = reach.client(url), work

    def node(self) -> str:
        return str(ray.get_runtime_context().get_node_id())

    def edit(self, task: Task) -> Outcome:
        return self._work.done_by(self._client, task)


class RayLane:
    """The lane through one actor."""

    def __init__(self, url: str, reach: Reach, work: Work, concurrency: int) -> None:
        self.url = url
        # No CPU of its own: it waits for its server nearly all the time. Ray restarts it where
        # there is room, and the scheduler gives the photos again that it had.
        kind: Any = ray.remote(_Carrier)
        self.actor = kind.options(
            num_cpus=0,
            max_concurrency=concurrency,
            max_restarts=-1,
            scheduling_strategy="SPREAD",
        ).remote(url, reach, work)

    def submit(self, task: Task) -> Future[Outcome]:
        told: Future[Outcome] = Future()

        def pass_on(answer: Future[Outcome]) -> None:
            error = answer.exception()
            if error is None:
                told.set_result(answer.result())
            else:
                message = f"ClusterUnavailable: {' '.join(str(error).split())[:300]}"
                told.set_result(Outcome(task, self.url, error=message, trouble="lost"))

        self.actor.edit.remote(task).future().add_done_callback(pass_on)
        return told

    def close(self) -> None:
        ray.kill(self.actor)


@contextmanager
def lanes(
    address: str, urls: Sequence[str], reach: Reach, work: Work, concurrency: int
) -> Iterator[list[RayLane]]:
    """A lane for each server, through the cluster at `address` ("auto", "ray://host:10001",
    "host:6379"), or one of this machine (LOCAL).

    Raises:
        ClusterUnavailable: there is none, it has no room, or its machines lack this package.
    """
    try:
        _check_answers(address)
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            include_dashboard=False if address == LOCAL else None,
        )
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise ClusterUnavailable(
            f"no Ray cluster answers at {address} ({' '.join(str(error).split())[:200]}): "
            f"start one with `ray start --head`, or use --ray {LOCAL}"
        ) from error
    try:
        made = [RayLane(url, reach, work, concurrency) for url in urls]
        try:
            ray.get([lane.actor.node.remote() for lane in made], timeout=_START)
        except RayError as error:
            raise ClusterUnavailable(
                f"the Ray cluster at {address} cannot begin "
                f"({' '.join(str(error).split())[-300:]}): its machines need "
                "styleclip-triton[ray] of this version"
            ) from error
        yield made
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """OSError when nobody listens there: Ray itself would wait for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT).close()
