"""Verbs: configure, train, predict, segment, evaluate, report."""

__version__ = "0.5.0"
