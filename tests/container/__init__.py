"""Containers made of the images, beside a real API server."""
