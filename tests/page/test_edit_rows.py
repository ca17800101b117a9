"""The values of an edit's controls while its target text changes."""

import pytest

from paths import ROOT
from styleclip_client import Domain

pytest.importorskip("streamlit", reason="the page's packages are missing: make ui")


@pytest.fixture
def change_target(monkeypatch):
    """Type targets into an empty row of the people domain; return the row."""
    monkeypatch.syspath_prepend(str(ROOT / "streamlit-ui"))
    from session import EditRow

    domain = Domain.from_json((ROOT / "model_repository/people/domain.json").read_text("utf-8"))
    row = EditRow(1, domain.neutral, "", domain.strength, domain.threshold)

    def change(target):
        row.change_target(target, domain)
        return row, (row.strength, row.threshold)

    return change


def test_a_presets_target_moves_the_sliders_to_its_numbers(change_target):
    row, numbers = change_target("a face with freckles")
    assert numbers == (7, 0.25)
    widgets = [row.bind("strength"), row.bind("threshold")]
    row, numbers = change_target("A face with a beard")
    assert numbers == (4, 0.37)
    moved = [row.bind("strength"), row.bind("threshold")]
    assert [widget["value"] for widget in moved] == [4, 0.37]
    assert not {widget["key"] for widget in widgets} & {widget["key"] for widget in moved}
    assert change_target("a face with freckles")[1] == (7, 0.25)


def test_a_slider_that_the_user_moved_stays(change_target):
    row, _ = change_target("a face with freckles")
    row.strength, key = 2.0, row.key("strength")
    row, numbers = change_target("a face with a beard")
    assert numbers == (2, 0.37)
    assert row.key("strength") == key
