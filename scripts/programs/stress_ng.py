"""stress-ng's stressors of sockets, each with --verify for a few seconds."""

NEEDS = ["stress-ng"]
CASES = {
    "sock, IPv4": ["--sock", "2", "--sock-domain", "ipv4"],
    "sock, IPv6": ["--sock", "2", "--sock-domain", "ipv6"],
    "sock, nodelay": ["--sock", "1", "--sock-nodelay"],
    "sock, all kinds of sending": ["--sock", "2", "--sock-opts", "random"],
    "sockfd": ["--sockfd", "1"],
    "sockmany": ["--sockmany", "1", "--sockmany-ops", "20000"],
    "epoll": ["--epoll", "1", "--epoll-domain", "ipv4"],
    "dup": ["--dup", "1"],
    "sendfile": ["--sendfile", "1"],
    "sockpair": ["--sockpair", "1"],
    "poll": ["--poll", "1"],
}


def suites():
    return [("stress-ng", False, run)]


def run(side):
    for name, words in CASES.items():
        side.case(name, stress, side, words)


def stress(side, words):
    port = side.port()
    named = [f"{words[0]}-port", port] if words[0] in ("--sock", "--sockmany", "--epoll") else []
    if words[0] == "--sockfd":
        named = ["--sockfd-port", port]
    seconds = 1 if side.short else 3
    # Its status says whether everything that it verified was right.
    side.run(["stress-ng", *words, *named, "--verify", "--timeout", f"{seconds}s", "--oomable"], limit=45)
