"""Ports for servers that are told which to listen at."""

import secrets
import socket


def free_port() -> int:
    """One at which nothing listens, below those that Linux hands out: by then another process could have got it."""
    while True:
        with socket.socket() as found:
            try:
                found.bind(("127.0.0.1", port := 12_000 + secrets.randbelow(20_000)))
            except OSError:
                continue
            return port
