"""A server on this machine that answers as AFLUX does, and fails as it is told to."""

import abc
import collections
import http.server
import json
import re
import socketserver
import threading
import urllib.parse

# Answered whether they are asked for or not.
ALWAYS = ("compound", "auid", "aurl", "spacegroup_relax", "Pearson_symbol_relax")
DIRECTIVES = ("paging", "format")

# What a page can be made to answer instead; "object" and "short" are real answers.
FAULTS = (
    "db fail",
    "empty",
    "half json",
    "cut off",
    "dict error",
    "text lines",
    "503",
    "503 retry-after",
    "429",
    "404",
    "hang up",
    "no rows",
    "short",
    "object",
    "short object",
    "previous page",
)


class _HTTPServer(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def server_bind(self):
        # Without asking the name service for this machine's name.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address


class LocalServer(abc.ABC):
    """Base of the fake services: a thread that serves `answer` on loopback.

    Attributes:
        counts: number of requests by page.
        is_down: drop every connection.
        requests_left: drops connections once so many were answered; None for never.
    """

    def __init__(self):
        self.counts = collections.Counter()
        self.paths = []
        self.is_down = False
        self.requests_left = None
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.paths.append(self.path)
                if outer.requests_left is not None:
                    outer.requests_left -= 1
                    outer.is_down = outer.is_down or outer.requests_left < 0
                if outer.is_down:
                    self.close_connection = True
                    return
                status, body, headers = outer.answer(self.path)
                if body is None:
                    return
                self.send_response(status)
                for name, value in ({"Content-Length": len(body)} | headers).items():
                    self.send_header(name, str(value))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args):
                pass

        self._server = _HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}
        )

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @abc.abstractmethod
    def answer(self, path):
        """Path → status, body (None: hang up), headers."""


class AfluxServer(LocalServer):
    """Answers summonses about entries, which are dictionaries.

    Attributes:
        script: by page number, faults that come first, one a request.
        always: a fault of every answer.
    """

    def __init__(self, entries):
        super().__init__()
        self.entries = entries
        self.script = collections.defaultdict(list)
        self.always = None
        self._found = {}

    @property
    def server(self):
        return f"{self.url}/API/aflux/"

    def answer(self, path):
        summons = urllib.parse.unquote(path.partition("?")[2])
        clauses = split_outside(summons)
        # Neither is a page; the second is the entire result of real AFLUX.
        paging = re.search(r"paging\(([0-9]+),([0-9]+)\)", summons)
        assert paging and "=" not in summons and "format(json)" in clauses, summons
        number, size = int(paging[1]), int(paging[2])
        assert number > 0 and size > 0
        self.counts[number] += 1
        found = self._search(tuple(c for c in clauses if keyword(c) not in DIRECTIVES))
        start = (number - 1) * size
        rows = found[start : start + size]
        fault = self.script[number].pop(0) if self.script[number] else self.always
        if fault == "previous page":
            rows = found[max(start - size, 0) : start]
        if fault in ("short", "short object"):
            rows = rows[: len(rows) // 2]
        if fault == "no rows":
            rows = []
        muted = "$paging" in summons and fault not in ("object", "short object")
        value = rows if muted else number_rows(rows, start, len(found))
        return break_answer(fault, json.dumps(value).encode())

    def _search(self, clauses):
        if clauses not in self._found:
            names = [keyword(clause) for clause in clauses if clause[0] != "$"]
            names = [*ALWAYS, *names]
            found = [
                entry
                for entry in self.entries
                if all(matches(entry, clause) for clause in clauses)
            ]
            found.sort(key=lambda entry: entry[names[len(ALWAYS)]])
            self._found[clauses] = [
                {name: entry.get(name) for name in names} for entry in found
            ]
        return self._found[clauses]


def break_answer(fault, body):
    """Status, body and headers of an answer, as the fault has them."""
    broken = {
        "db fail": b"DB Fail!null",
        "empty": b"",
        "half json": body[: len(body) // 2],
        "dict error": b'{"error": "too many connections"}',
        "text lines": b'["Welcome to AFLUX", "usage: ..."]',
        "hang up": None,
    }
    if fault in broken:
        return 200, broken[fault], {}
    if fault == "cut off":
        return 200, body[: len(body) // 2], {"Content-Length": len(body)}
    if fault is not None and fault[:3].isdecimal():
        headers = {"Retry-After": 0} if "retry-after" in fault else {}
        return int(fault[:3]), b"<html>busy</html>", headers
    return 200, body, {}


def number_rows(rows, start, total):
    numbered = [
        (f"{start + offset} of {total}", row) for offset, row in enumerate(rows, 1)
    ]
    # Objects have no order: the numbers have to be used.
    return dict(reversed(numbered))


def keyword(clause):
    return clause.lstrip("$").partition("(")[0]


def split_outside(text, separator=","):
    """Splits where no parenthesis is open."""
    pieces, depth = [""], 0
    for character in text:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == separator and depth == 0:
            pieces.append("")
        else:
            pieces[-1] += character
    return pieces


def matches(entry, clause):
    """Whether an entry has what a clause such as ``natoms(4*,*60)`` asks for."""
    name, _, rest = clause.lstrip("$").partition("(")
    argument = rest.removesuffix(")")
    if not argument:
        return True
    return matches_argument(entry.get(name), argument)


def matches_argument(value, argument):
    """``,`` binds weaker than ``:``; parentheses as usual."""
    if argument.startswith("(") and split_outside(argument[1:-1], ")") != ["", ""]:
        inner = argument[1:-1]
        if argument.endswith(")") and inner.count("(") == inner.count(")"):
            return matches_argument(value, inner)
    if len(parts := split_outside(argument, ",")) > 1:
        return all(matches_argument(value, part) for part in parts)
    if len(parts := split_outside(argument, ":")) > 1:
        return any(matches_argument(value, part) for part in parts)
    if argument.startswith("!"):
        return not matches_argument(value, argument[1:])
    if argument == "*":
        return value is not None
    if isinstance(value, list):
        return argument in value
    if argument.endswith("*"):
        return value is not None and value >= float(argument[:-1])
    if argument.startswith("*"):
        return value is not None and value <= float(argument[1:])
    return str(value) == argument.strip("'")
