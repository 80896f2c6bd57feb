"""Timestamps as the Kubernetes API writes them (UTC, whole seconds) and durations as people read them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


def utc_now() -> datetime:
    """The clock that `__main__` hands to everything that decides."""
    return datetime.now(UTC)


def format_time(time: datetime) -> str:
    """`2026-01-31T12:00:00Z`."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str) -> datetime:
    """Read metav1.Time and metav1.MicroTime."""
    return datetime.fromisoformat(text)


def format_duration(seconds: float) -> str:
    """`45s`, `3m20s`, `2h05m`, `3d04h`: two units are enough to plan by."""
    total = max(0, round(seconds))
    minutes, rest = divmod(total, 60)
    hours, minutes_rest = divmod(minutes, 60)
    days, hours_rest = divmod(hours, 24)
    if days:
        return f"{days}d{hours_rest:02d}h"
    if hours:
        return f"{hours}h{minutes_rest:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


def seconds_until(time: datetime, now: datetime) -> float:
    """Seconds from now, never negative."""
    return max(0.0, (time - now).total_seconds())


def has_passed(time: datetime, now: datetime, *, seconds: float = 0) -> bool:
    """Whether `seconds` have gone by since `time`."""
    return now >= time + timedelta(seconds=seconds)


def earliest(*seconds: float | None) -> float | None:
    """The smallest of these that is set."""
    return min((each for each in seconds if each is not None), default=None)
