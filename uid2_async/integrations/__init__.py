"""Adapters to other libraries, one module each. No other module imports them.

A module needs what it is named after: the extra of the same name installs it.
"""
