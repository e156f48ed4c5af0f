"""Windows: their names, their ends, and which one is current."""

from datetime import UTC, datetime

import pytest

from budgetguard.stores.windows import end_of, window_at, window_like


def unix(*when: int) -> float:
    return datetime(*when, tzinfo=UTC).timestamp()


def test_a_window_is_named_by_its_utc_calendar_unit():
    when = unix(2026, 11, 20, 21, 59, 59)
    assert window_at("hour", when) == "2026-11-20T21"
    assert window_at("day", when) == "2026-11-20"
    assert window_at("month", when) == "2026-11"


def test_without_windows_the_name_is_empty_and_never_ends():
    assert window_at(None, 1e9) == ""
    assert window_like("", 1e9) == ""
    assert end_of("") == 0


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("2026-11-20T21", unix(2026, 11, 20, 22)),
        ("2026-11-20T23", unix(2026, 11, 21)),
        ("2026-11-30", unix(2026, 12, 1)),
        ("2026-12-31", unix(2027, 1, 1)),
        ("2026-12-31T23", unix(2027, 1, 1)),
        ("2026-02-28", unix(2026, 3, 1)),
        ("2028-02-28", unix(2028, 2, 29)),
        ("2028-02-29", unix(2028, 3, 1)),
        ("2028-02", unix(2028, 3, 1)),
        ("2026-01", unix(2026, 2, 1)),
        ("2026-04", unix(2026, 5, 1)),
        ("2026-12", unix(2027, 1, 1)),
    ],
)
def test_a_window_ends_where_the_next_begins(name: str, end: float):
    assert end_of(name) == end
    assert window_like(name, end - 1) == name
    assert window_like(name, end) != name
    assert window_like(name, end) > name


@pytest.mark.parametrize("kind", ["hour", "day", "month"])
def test_the_current_window_is_of_the_same_kind(kind):
    then, now = unix(2025, 12, 31, 23), unix(2026, 1, 1)
    assert window_like(window_at(kind, then), now) == window_at(kind, now)


def test_every_moment_of_a_month_lies_in_it():
    begin, end = unix(2028, 2, 1), unix(2028, 3, 1)
    hours = range(int(begin), int(end), 3600)
    assert len(hours) == 29 * 24
    assert {window_at("month", hour) for hour in hours} == {"2028-02"}
    assert len({window_at("day", hour) for hour in hours}) == 29
    assert len({window_at("hour", hour) for hour in hours}) == 29 * 24
