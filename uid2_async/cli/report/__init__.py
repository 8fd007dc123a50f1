"""The page that ``uid2 state report`` writes: what it says, its pictures, its HTML."""

from __future__ import annotations
