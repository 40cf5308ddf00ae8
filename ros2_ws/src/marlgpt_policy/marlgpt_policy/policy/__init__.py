"""Policy files: loading and checking them, running them beside the control loop, replacing them while driving."""

from marlgpt_policy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "OnnxPolicy": "onnx_policy",
        "PolicyError": "onnx_policy",
        "PolicyOutput": "onnx_policy",
        "choose": "onnx_policy",
        "PolicyProcess": "policy_process",
        "PolicySwap": "policy_swap",
        "shipped_file": "shipped_files",
        "shipped_policy": "shipped_files",
        "shortest_ways": "stand_in",
    },
)
