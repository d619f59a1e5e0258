"""Shipped layouts, one YAML file each.

Beside them stands the reader of such a file.
"""
