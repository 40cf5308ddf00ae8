"""What helps robots that are stuck: sampling, right of way, small joint plans, detours."""

from marlgpt_policy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "Detours": "detours",
        "REMEDY_NAMES": "remedies",
        "RightOfWay": "right_of_way",
        "JointPlans": "rolling_horizon_plan",
        "Stagnation": "stagnation",
    },
)
