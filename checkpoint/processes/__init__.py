"""Process trees of the pod, before CRIU comes: what /proc says of them, started, stopped, held by pidfds."""
