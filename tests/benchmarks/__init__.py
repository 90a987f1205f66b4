"""Speeds, as distributions and ratios; nothing here asserts."""
