"""Preparation of raw examinations: registered, without skull."""
