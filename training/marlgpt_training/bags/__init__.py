"""Bags of driving fleets become trajectory-store episodes: reading, decisions, poses, and a report."""
