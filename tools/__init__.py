"""Helpers of development that measure nothing: audit, bill of materials, licences, soups."""
