"""Standalone pods: what Kubernetes would provide, made from namespaces on plain Linux."""
