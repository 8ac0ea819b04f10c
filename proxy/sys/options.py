"""Numbers of socket options and requests that Python's socket module lacks, each with its source (Linux uapi)."""

from __future__ import annotations

SOL_TCP = 6

# include/uapi/linux/tcp.h
TCP_MAXSEG = 2
TCP_WINDOW_CLAMP = 10
TCP_INFO = 11
TCP_CONGESTION = 13
TCP_REPAIR = 19
TCP_REPAIR_QUEUE = 20
TCP_QUEUE_SEQ = 21
TCP_REPAIR_OPTIONS = 22
TCP_TIMESTAMP = 24
TCP_REPAIR_WINDOW = 29

REPAIR_ON = 1
REPAIR_OFF = 0
"""Leave repair and send a window probe, so that the other end answers with its true window."""
REPAIR_OFF_SILENT = -1
"""Leave repair and send nothing (TCP_REPAIR_OFF_NO_WP)."""
RECV_QUEUE = 1
SEND_QUEUE = 2

# Codes of struct tcp_repair_opt: TCP option kinds of RFC 9293 and RFC 7323 (K: tcp_repair_options_est)
OPT_MAXSEG = 2
OPT_WINDOW = 3
OPT_SACK_PERM = 4
OPT_TIMESTAMP = 8

# TCPI_OPT_*, bits of tcpi_options
INFO_TIMESTAMPS = 1
INFO_SACK = 2
INFO_WSCALE = 4

# struct tcp_info: offsets of the members that are read
INFO_BYTES = 104
INFO_STATE = 0
INFO_OPTIONS = 5
INFO_WSCALES = 6
INFO_UNACKED = 24
"""A listener's accept queue, as long as it is (K: tcp_get_info)."""
INFO_SACKED = 28
"""A listener's backlog: the most its accept queue may hold."""

# include/uapi/asm-generic/socket.h
SO_SNDBUFFORCE = 32
SO_RCVBUFFORCE = 33
SO_TIMESTAMPING = 37
SO_MEMINFO = 55
SO_BUF_LOCK = 72
SO_RCVMARK = 75
MEMINFO_RMEM_ALLOC = 0  # include/uapi/linux/sock_diag.h, SK_MEMINFO_*
MEMINFO_RCVBUF = 1
MEMINFO_DROPS = 8
MEMINFO_WORDS = 9

IP_RECVORIGDSTADDR = 20  # include/uapi/linux/in.h; beside a datagram it is told under the same number
IPV6_RECVORIGDSTADDR = 74  # include/uapi/linux/in6.h
UDP_GRO = 104  # include/uapi/linux/udp.h

# include/uapi/linux/in.h, in6.h
IP_TRANSPARENT = 19
IPV6_TRANSPARENT = 75

# include/uapi/linux/sockios.h, asm-generic/sockios.h
SIOCINQ = 0x541B
SIOCOUTQ = 0x5411

# include/uapi/linux/netfilter/nfnetlink.h; socket.NETLINK_* are not in Python for every family
NETLINK_ROUTE = 0
NETLINK_SOCK_DIAG = 4
NETLINK_NETFILTER = 12
