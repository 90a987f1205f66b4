"""Tests in virtual time or in milliseconds, without an API server."""
