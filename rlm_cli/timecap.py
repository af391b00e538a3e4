"""When a run has to stop, so that it is over in time whatever hangs.

Of a run's time a share is kept for its end: stopping what runs, and the last turn. What hangs then may take a little
more; the last turn takes what is left.
"""

from __future__ import annotations

from dataclasses import dataclass

LAST_SHARE = 0.1
LAST_TURN_S = 60.0
"""What is kept of a run's time: a tenth, at most a minute. The last turn takes no longer after any other limit."""
OVERRUN_S = 10.0
"""After its time a run is over within so long, if its machine is not to blame."""
GRACE_S = 5.0
"""When the time is up while calls are pending, these fail, and the cell has so long to go on with the others."""
STOP_S = 30.0
"""How long a cell may take to hand over what it did, once it is interrupted: its worker may have to be replaced."""
DROP_S = 2.0
"""The same for one that was not over then: it is left behind."""


@dataclass(frozen=True)
class TimeCap:
    """Moments, by the event loop's clock; None: there is no cap. Nothing goes on after `work` but what ends the run,
    which is over by `end`."""

    work: float | None = None
    end: float | None = None

    @classmethod
    def of_last_turn(cls, run: TimeCap, now: float) -> TimeCap:
        """A last turn that begins `now`: what its code leaves running has to be stopped, too."""
        end = now + LAST_TURN_S if run.end is None else min(run.end, now + LAST_TURN_S)
        return cls(end - max(0.0, min(GRACE_S, (end - now) / 4)), end)

    def share(self, now: float) -> float:
        """Seconds for each step of stopping: a quarter of what is left, so that the last turn has one, too."""
        return STOP_S if self.end is None else max(0.0, self.end - now) / 4
