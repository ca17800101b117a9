"""A container's limits: how many processors its quota leaves, by the kernel's files."""

import pytest

from styleclip_server.engines.cpu_quota import quota


@pytest.fixture
def machine(monkeypatch):
    """One of 64 processors."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)))


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("400000 100000\n", 4),
        ("150000 100000\n", 2),
        ("10000 100000\n", 1),
        ("6400000 100000\n", None),
        ("max 100000\n", None),
        ("nonsense\n", None),
    ],
)
def test_the_quota_is_read_and_rounded_up(machine, tmp_path, text, count):
    (tmp_path / "cpu.max").write_text(text)
    assert quota(tmp_path) == count


@pytest.mark.parametrize(("allowed", "count"), [("400000", 4), ("-1", None)])
def test_the_older_kind_of_control_groups_is_read_too(machine, tmp_path, allowed, count):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text(f"{allowed}\n")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert quota(tmp_path) == count


def test_without_control_groups_there_is_no_quota(tmp_path):
    assert quota(tmp_path) is None
