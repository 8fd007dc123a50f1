"""Adapters to other libraries, one module each; nothing here is imported by the rest.

A module needs what it is named after: the extra of the same name installs it.
"""
