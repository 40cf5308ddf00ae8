"""Observation encoders: one module per environment, each filling the tokens of one `TokenLayout`."""
