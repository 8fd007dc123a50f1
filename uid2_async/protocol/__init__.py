"""The wire protocol of UID2 and EUID, without any I/O (provisional API).

These are pure functions of bytes, keys, time and nonce. They implement the client's
half of each message, and what both halves share. The embedded operator's half is in
``uid2_async.operator``. The docstrings cite docs/protocol.md as the reference.
"""
