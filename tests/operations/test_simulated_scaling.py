"""The HPA of the manifest on simulated servers (tools/capacity/simulate_scaling.py)."""

from tools.capacity.simulate_scaling import HpaRule, simulate

SERVICE, START = 0.2, 30.0  # seconds: one server does 5 edits per second


def simulate_edits(*rates):
    return simulate(list(rates), SERVICE, 0.5, START, HpaRule.read())


def test_the_scaling_rule_matches_the_manifest():
    rule = HpaRule.read()
    assert (rule.target, rule.min_replicas, rule.max_replicas) == (0.075, 2, 16)
    assert (rule.max_growth, rule.stabilization, rule.min_shrink) == (2.0, 300, 0.9)


def test_a_small_load_keeps_the_minimum_of_servers():
    assert {edit.servers for edit in simulate_edits((3600, 2.0))} == {2}


def test_a_higher_load_gets_enough_servers_and_not_the_maximum():
    edits = simulate_edits((600, 5.0), (2400, 25.0))
    late = [edit for edit in edits if edit.start > 1800]
    assert all(5 <= edit.servers <= 12 for edit in late)
    assert sum(edit.wait is None for edit in late) < 0.01 * len(late)


def test_servers_are_removed_when_the_load_ends():
    edits = simulate_edits((1200, 25.0), (3600, 1.0))
    assert edits[-1].servers == 2


def test_the_maximum_is_never_exceeded_and_edits_that_would_wait_too_long_are_refused():
    edits = simulate_edits((1200, 100.0))
    assert {edit.servers for edit in edits} == {16}
    assert any(edit.wait is None for edit in edits)
