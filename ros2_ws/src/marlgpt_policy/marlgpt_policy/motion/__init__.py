"""Motion: reservations, coupling of robots on the grid, docking to it, tracking and limits of velocities."""

from marlgpt_policy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "DeadReckoning": "dead_reckoning",
        "ReservationError": "reservations",
        "Reservations": "reservations",
        "SafetyMargins": "safety_margins",
        "smallest_margin": "safety_margins",
        "TrackResult": "tracker",
        "track": "tracker",
        "limit": "velocity_limiter",
    },
)
