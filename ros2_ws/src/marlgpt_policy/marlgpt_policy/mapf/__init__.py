"""Multi-agent path finding on grids: PIBT as the conflict shield, LaCAM, large-neighbourhood search."""

from marlgpt_policy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "solve": "joint_search",
        "lacam_plan": "lacam:lacam",
        "neighbour_table": "lacam",
        "LargeNeighbourhoodSearch": "large_neighbourhood_search",
        "pibt_actions": "pibt",
        "move_worth": "pibt_shield",
        "rank_moves": "pibt_shield",
        "resolve": "pibt_shield",
        "plan_window": "prioritised_planning",
    },
)
