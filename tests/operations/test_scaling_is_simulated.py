"""The HPA of the manifest on simulated servers: tools/capacity/simulate_scaling.py."""

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "tools/capacity/simulate_scaling.py"
SERVICE, START = 0.2, 30.0  # seconds: so one server can do 5 edits a second


@pytest.fixture(scope="module")
def scaling():
    spec = importlib.util.spec_from_file_location("simulate_scaling", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look for their module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def simulate(scaling):
    return lambda *rates: scaling.simulate(list(rates), SERVICE, 0.5, START, scaling.Rule.read())


def test_the_rule_is_that_of_the_manifest(scaling):
    rule = scaling.Rule.read()
    assert (rule.target, rule.least, rule.most) == (0.075, 2, 16)
    assert (rule.grow, rule.calm, rule.shrink) == (2.0, 300, 0.9)


def test_a_small_load_keeps_the_least_number_of_servers(simulate):
    assert {edit.servers for edit in simulate((3600, 2.0))} == {2}


def test_a_rise_is_answered_by_servers_enough_and_not_by_all_that_may_be(simulate):
    edits = simulate((600, 5.0), (2400, 25.0))
    late = [edit for edit in edits if edit.at > 1800]
    assert all(5 <= edit.servers <= 12 for edit in late)
    assert sum(edit.wait is None for edit in late) < 0.01 * len(late)


def test_servers_go_again_when_the_load_is_gone(simulate):
    edits = simulate((1200, 25.0), (3600, 1.0))
    assert edits[-1].servers == 2


def test_never_more_than_the_most_and_who_would_wait_too_long_is_refused(simulate):
    edits = simulate((1200, 100.0))
    assert {edit.servers for edit in edits} == {16}
    assert any(edit.wait is None for edit in edits)
