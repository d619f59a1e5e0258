"""Verbs: configure, train, predict, segment, evaluate, report."""

__version__ = "0.4.0"
