"""The wire protocol of UID2 and EUID, without any I/O (provisional API).

Pure functions of bytes, keys, time and nonce: the client's half of each message, and
what both halves share. The embedded operator's half is in ``uid2_async.operator``.
docs/protocol.md is the reference that the docstrings cite.
"""
