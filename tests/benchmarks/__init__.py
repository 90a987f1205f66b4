"""Speeds and costs, as distributions and ratios; nothing here asserts."""
