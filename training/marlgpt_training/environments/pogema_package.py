"""The real ``pogema`` package (1.4.0) under today's gymnasium and NumPy."""

from __future__ import annotations

import warnings


def import_pogema():
    """Import ``pogema``, restoring what gymnasium >= 1.0 took away from its wrappers.

    Raises:
        ImportError: The package is missing; the message says how to install it.
    """
    try:
        import gymnasium
    except ImportError as error:
        raise ImportError("gymnasium is not installed; run 'make setup'") from error
    if not hasattr(gymnasium.Wrapper, "__getattr__"):

        def forward(self, name):
            """Look attributes up in the wrapped environment, as gymnasium 0.28 did."""
            if name.startswith("_") or name == "env":
                raise AttributeError(f"accessing private attribute '{name}' is prohibited")
            return getattr(self.env, name)

        gymnasium.Wrapper.__getattr__ = forward
    if not hasattr(gymnasium.logger, "info"):
        gymnasium.logger.info = lambda *args, **kwargs: None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import pogema
        except ImportError as error:
            raise ImportError(f"pogema is not usable ({error}); run 'make setup'") from error
    return pogema
