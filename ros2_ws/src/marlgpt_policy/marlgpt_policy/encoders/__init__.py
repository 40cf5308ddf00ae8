"""Observation encoders: one module per environment, each filling the tokens of one `TokenLayout`."""

from marlgpt_policy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "FrameEncoder": "frames",
        "Slot": "frames",
        "encode": "pogema",
        "frame_encoder": "registry",
        "layout_named": "registry",
        "layout_of": "registry",
        "smacv2_encoder": "smacv2",
        "smax_encoder": "smax",
        "LayoutError": "token_layout",
        "POGEMA_LAYOUT": "token_layout",
        "TokenLayout": "token_layout",
    },
)
