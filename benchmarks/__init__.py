"""Measurements, as ratios between things that run in the same minute."""
