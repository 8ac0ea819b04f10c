"""The workload's sockets: duplicated, handed to the proxy, and what of them CRIU does not save."""
