"""The embedded operator: answers like the real one (docs/protocol.md 2)."""
