"""Scores of masks: metrics, lesions, statistics, tables."""
