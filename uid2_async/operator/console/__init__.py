"""The sandbox's page: calls read decrypted, people, faults and time (docs/sandbox.md).

All of it works on what an operator has recorded; nothing is decrypted until someone
looks, and nothing leaves the memory of the process.
"""
