"""The sandbox's page: decrypted calls, opt-outs, faults, clock (docs/sandbox.md).

Calls are decrypted only when someone opens them, and nothing leaves the memory of the
process.
"""
