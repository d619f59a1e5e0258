"""Segmentation of many cases: run, records, shards, page."""
