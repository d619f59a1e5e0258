"""Shipped label conventions, one YAML file each.

Beside them stand the parts of such a file.
"""
