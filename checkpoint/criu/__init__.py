"""CRIU itself: a process that waits for one request, its messages, and what it needs of the machine."""
