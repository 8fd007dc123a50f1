"""The wire protocol of UID2 and EUID, without any I/O (provisional API).

Pure functions of bytes, keys, time and nonce; both halves of every message, so that
the client and the embedded operator say everything once. docs/protocol.md is the
reference that the docstrings cite.
"""
