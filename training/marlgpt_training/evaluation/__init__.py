"""Evaluation of policies in the real ``pogema`` package: who plays, on what, how it is measured and shown."""
