"""The central fleet: poses and goals in, velocity commands out; its decisions and its watchdog."""

from marlgpt_policy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "Decision": "decision_record",
        "Fleet": "fleet",
        "Tick": "fleet",
        "FleetConfig": "fleet_config",
        "PibtPlanner": "planners.pibt_planner",
        "Planner": "planners.planner",
        "Proposal": "planners.planner",
        "PolicyPlanner": "planners.policy_planner",
        "Snapshot": "snapshot",
        "Watchdog": "watchdog",
    },
)
