"""Load and fault tests of the server, on this machine only: rates, latency, memory, bad clients.

    python scripts/serving_load.py --seconds 10 --soak-minutes 3

Starts each server on a free port of 127.0.0.1 and sends bounded load with wrk (Debian package wrk): FastAPI
alone with an empty handler, the server, and the server without batching, in turns. Then a long run at 80 % of
the server's rate, and clients that send malformed, slow, half-closed and oversized requests while others are
checked. Appends a line of JSON to docs/serving-load.jsonl and prints a table.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CLIENTS, ROUNDS, MALFORMED = 32, 3, 1000
COLUMNS = {"per_second": 0, "p50_ms": 1, "p99_ms": 1, "cpu_ms": 2, "errors": 0}  # of the table, with digits
WORDS = [
    "the",
    "flight",
    "crew",
    "was",
    "great",
    "lovely",
    "awful",
    "late",
    "again",
    "and",
    "we",
    "love",
    "hate",
    "this",
    "airline",
    "my",
    "bag",
    "is",
    "lost",
    "thanks",
    "never",
    "not",
    "very",
    "good",
    "bad",
    "service",
    "seats",
    "food",
    "why",
    "so",
    "@united",
    "#fail",
    ":)",
    "really",
    "happy",
    "sooo",
    "long",
    "wait",
    "http://t.co/x",
]
EMPTY = """
import sys, uvicorn
from fastapi import FastAPI
app = FastAPI()
@app.post("/predict")
async def predict(): return []
config = uvicorn.Config(app, port=0, log_level="critical", access_log=False)
config.port = 0
server = uvicorn.Server(config)
import asyncio
async def main():
    task = asyncio.create_task(server.serve())
    while not server.started: await asyncio.sleep(0.05)
    print("http://127.0.0.1:%d " % server.servers[0].sockets[0].getsockname()[1], flush=True)
    await task
asyncio.run(main())
"""
SERVER = [sys.executable, "-m", "lstm_sentiment.serve", "starter", "--port", "0"]
ARMS = {
    "FastAPI alone, empty handler": [sys.executable, "-c", EMPTY],
    "server": SERVER,
    "server, --batch 1 (control)": [*SERVER, "--batch", "1"],
}


def tweets(count: int = 1000) -> list[str]:
    """Return random tweets of 8 to 24 words."""
    randomness = random.Random(0)
    return [" ".join(randomness.choices(WORDS, k=randomness.randint(8, 24))) for _ in range(count)]


@contextlib.contextmanager
def started(command: list[str]) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """Start a server; yield its port and process; stop it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    try:
        found = re.search(r"http://127\.0\.0\.1:(\d+) ", process.stdout.readline())
        assert found is not None, "the server did not start"
        yield int(found[1]), process
    finally:
        process.terminate()
        process.wait(15)


def load(port: int, seconds: float, script: Path) -> dict[str, float]:
    """Send load with wrk, and return requests/s, latencies in ms, and errors."""
    url = f"http://127.0.0.1:{port}/predict"
    command = [
        "wrk",
        "-t1",
        f"-c{CLIENTS}",
        f"-d{round(seconds)}s",
        "--timeout",
        "10s",
        "-s",
        str(script),
        url,
    ]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[str, float] = json.loads(output.strip().splitlines()[-1])
    return found


def lua(texts: list[str], *, pause_ms: float = 0.0) -> str:
    """Return a wrk script that posts texts in turn, with a pause of each client between its requests."""
    bodies = ",\n".join(f"[==[{json.dumps({'inputs': text})}]==]" for text in texts)
    pause = f"function delay() return {round(pause_ms)} end" if pause_ms >= 1 else ""
    return f"""
local bodies = {{ {bodies} }}
local next_body = 0
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
function request()
  next_body = next_body % #bodies + 1
  return wrk.format(nil, nil, nil, bodies[next_body])
end
{pause}
function done(summary, latency, requests)
  local e = summary.errors
  local form = '\\n{{"per_second": %.1f, "p50_ms": %.2f, "p99_ms": %.2f, "requests": %d, "errors": %d}}\\n'
  io.write(string.format(form,
    summary.requests / (summary.duration / 1e6), latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    summary.requests, e.connect + e.read + e.write + e.status + e.timeout))
end
"""


def memory_mb(process: subprocess.Popen[str]) -> float:
    """Return the resident memory of a process in MB."""
    status = Path(f"/proc/{process.pid}/status").read_text("ascii")
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024  # type: ignore[index]


def cpu_s(process: subprocess.Popen[str]) -> float:
    """Return the seconds of CPU that a process has used."""
    fields = Path(f"/proc/{process.pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def compare(seconds: float, folder: Path) -> dict[str, dict[str, float]]:
    """Measure each arm in turns; return the medians over rounds."""
    script = folder / "load.lua"
    script.write_text(lua(tweets()), "utf-8")
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in ARMS}
    for _ in range(ROUNDS):
        for name, command in ARMS.items():
            with started(command) as (port, process):
                load(port, 2, script)  # caches
                before = cpu_s(process)
                found = load(port, seconds, script)
                used_ms = 1000 * (cpu_s(process) - before) / found["requests"]
                rounds[name].append({**found, "cpu_ms": round(used_ms, 3)})
    return {
        name: {key: statistics.median(of[key] for of in found) for key in found[0]}
        for name, found in rounds.items()
    }


def soak(minutes: float, per_second: float, folder: Path) -> dict[str, float]:
    """Send a rate for some minutes; return the rate reached, errors, and memory before and after."""
    script = folder / "soak.lua"
    with started(SERVER) as (port, process):
        response_ms = 500 * CLIENTS / per_second
        for _ in range(3):  # a client waits for a response, then pauses: both together give the rate
            pause_ms = max(1000 * CLIENTS / per_second - response_ms, 0.0)
            script.write_text(lua(tweets(), pause_ms=pause_ms), "utf-8")
            found = load(port, 10, script)
            response_ms = 1000 * CLIENTS / found["per_second"] - round(pause_ms)
        before = memory_mb(process)
        found = load(port, 60 * minutes, script)
        return {
            **found,
            "minutes": minutes,
            "before_mb": round(before),
            "after_mb": round(memory_mb(process)),
        }


def post(port: int, body: bytes, *, length: int | None = None, head: bytes = b"") -> bytes:
    """Return the bytes of a request."""
    size = len(body) if length is None else length
    start = b"POST /predict HTTP/1.1\r\nhost: 127.0.0.1:%d\r\ncontent-type: application/json\r\n" % port
    return start + head + b"content-length: %d\r\n\r\n" % size + body


def bad_requests(port: int) -> list[tuple[str, bytes]]:
    """Return malformed requests of several kinds."""
    randomness = random.Random(1)
    kinds = {
        "no JSON": post(port, b'{"inputs": '),
        "no texts": post(port, b'{"inputs": [1, 2]}'),
        "no UTF-8": post(port, b'{"inputs": "\xff\xfe"}'),
        "deep": post(port, b"[" * 5000),
        "no HTTP": randomness.randbytes(200),
        "no length": b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: x\r\n\r\n",
        "10,000 header bytes": post(port, b'{"inputs": "so"}', head=b"x-a: " + b"a" * 10_000 + b"\r\n"),
        "too large": post(port, b"", length=10**9),
        "cut": post(port, b'{"inputs": "so"}', length=100),
        "wrong path": b"GET /../../etc/passwd HTTP/1.1\r\nhost: localhost\r\n\r\n",
    }
    return list(kinds.items())


def faults(seconds: float) -> dict[str, Any]:
    """Send bad requests while a client checks its answers; return what it saw."""
    body = json.dumps({"inputs": "I love this airline"}).encode()
    checked: dict[str, Any] = {"checked": 0, "wrong": 0, "slowest_ms": 0.0}
    with started(SERVER) as (port, process), contextlib.ExitStack() as held:
        expected = answer(port, body)
        ending = threading.Event()

        def check() -> None:
            while not ending.is_set():
                begun = time.perf_counter()
                checked["wrong"] += answer(port, body) != expected
                checked["checked"] += 1
                checked["slowest_ms"] = max(checked["slowest_ms"], 1000 * (time.perf_counter() - begun))

        client = threading.Thread(target=check)
        client.start()
        deadline = time.monotonic() + seconds
        for number in range(MALFORMED):
            name, data = bad_requests(port)[number % 10]
            connection = held.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
            with contextlib.suppress(OSError):
                connection.sendall(data)
                if number % 3 == 0:
                    connection.shutdown(socket.SHUT_WR)  # half-closed
                if name not in ("cut", "too large") and number % 2:
                    connection.recv(1000)
            if number % 50 == 0 and time.monotonic() > deadline:
                break
            if number % 4:
                connection.close()  # the others stay open: slow clients
        checked["sent"] = number + 1
        time.sleep(1)
        ending.set()
        client.join()
        checked["alive"] = process.poll() is None
    checked["slowest_ms"] = round(checked["slowest_ms"], 1)
    return checked


def answer(port: int, body: bytes) -> bytes:
    """Return the answer to a request on a connection of its own."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(post(port, body, head=b"connection: close\r\n"))
        found = b""
        while part := connection.recv(65_536):
            found += part
    return found.partition(b"\r\n\r\n")[2]


def table(found: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = [
        "| server | requests/s | p50, ms | p99, ms | CPU of a request, ms | errors |",
        "| --- " + "| --: " * 5 + "|",
    ]
    for name, of in found["arms"].items():
        values = (f"{of[key]:,.{digits}f}" for key, digits in COLUMNS.items())
        lines.append(f"| {' | '.join([name, *values])} |")
    if of := found.get("soak"):
        lines.append(
            f"\n{of['minutes']:g} minutes at {of['per_second']:,.0f} requests/s: "
            f"{of['requests']:,} requests, {of['errors']} errors, p99 {of['p99_ms']:.1f} ms, "
            f"memory {of['before_mb']} MB, then {of['after_mb']} MB"
        )
    of = found["faults"]
    lines.append(
        f"\n{of['sent']:,} bad requests, a quarter of them left open: {of['checked']:,} requests of another "
        f"client meanwhile, {of['wrong']} wrong answers, slowest {of['slowest_ms']} ms"
    )
    return "\n".join(lines)


def main() -> None:
    """Run the tests."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--seconds", type=float, default=10, help="of each round of each server")
    parser.add_argument("--soak-minutes", type=float, default=3, help="of the long run; 0 for none")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "serving-load.jsonl")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        parser.error("needs wrk: apt-get install wrk")
    with tempfile.TemporaryDirectory() as folder:
        arms = compare(options.seconds, Path(folder))
        found: dict[str, Any] = {"time": time.strftime("%Y-%m-%d"), "cores": len(os.sched_getaffinity(0))}
        found |= {"load_before": round(os.getloadavg()[0], 1), "seconds": options.seconds, "arms": arms}
        if options.soak_minutes:
            found["soak"] = soak(options.soak_minutes, 0.8 * arms["server"]["per_second"], Path(folder))
        found["faults"] = faults(60)
    with options.out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(found) + "\n")
    print(table(found))


if __name__ == "__main__":
    main()
