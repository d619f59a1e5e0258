"""Judgement of one visit against those before it: schedule, sums, bounds, words."""
