"""When a scheduled task is due: `every` on the monotonic clock, cron expressions on the wall clock."""

from __future__ import annotations

from datetime import datetime

from cronsim import CronSim

from pysuper.stack.spec import Schedule

__all__ = ["seconds_until_due"]


def seconds_until_due(schedule: Schedule, *, since_start: float, now: datetime) -> float:
    """
    Seconds until the next run.

    Args:
        since_start: Seconds from the start of the last run until now.
        now: On the wall clock, local time; cron expressions mean that one.
    """
    if schedule.every is not None:
        # One that took longer than its period is due at the next multiple, not at once.
        return schedule.every - since_start % schedule.every
    assert schedule.cron is not None
    return (next(CronSim(schedule.cron, now)) - now).total_seconds()
