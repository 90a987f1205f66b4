"""The lane that runs against a real Kubernetes API server."""
