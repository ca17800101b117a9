"""What the CPU offers: the cores of a container's quota and bfloat16, read from /sys and /proc."""

import pytest

from styleclip_server.engines.cpu import core_quota, supports_bfloat16


@pytest.fixture
def cores_64(monkeypatch):
    """A machine with 64 cores."""
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
def test_the_core_quota_is_rounded_up(cores_64, tmp_path, text, count):
    (tmp_path / "cpu.max").write_text(text)
    assert core_quota(tmp_path) == count


@pytest.mark.parametrize(("allowed", "count"), [("400000", 4), ("-1", None)])
def test_the_quota_of_cgroups_v1_is_read(cores_64, tmp_path, allowed, count):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text(f"{allowed}\n")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert core_quota(tmp_path) == count


def test_without_cgroups_there_is_no_core_quota(tmp_path):
    assert core_quota(tmp_path) is None


def test_bfloat16_is_recognized_by_the_cpu_flags(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("model name : x\nflags\t\t: fpu avx2 avx512f avx512_bf16 amx_tile\n")
    assert supports_bfloat16(cpuinfo)
    cpuinfo.write_text("model name : with avx512_bf16\nflags\t\t: fpu avx2\n")
    assert not supports_bfloat16(cpuinfo)
    assert not supports_bfloat16(tmp_path / "none")
