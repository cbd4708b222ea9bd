"""Serve predictions over HTTP, with a page to try them on."""

from __future__ import annotations

import argparse
import logging
import os
import sys

from lstm_sentiment.cli.exits import run_command
from lstm_sentiment.cli.terminal import log_to, say
from lstm_sentiment.cli.usage import program
from lstm_sentiment.config.command_line import RUN, CommandParser, add_precision_option
from lstm_sentiment.errors import ConfigError
from lstm_sentiment.system.extras import need

TOKEN = "LSTM_SENTIMENT_TOKEN"  # noqa: S105 - the name of an environment variable
SHORTEST_TOKEN = 8
SWITCH_S = 0.0005  # the thread of the model waits so long for that of the requests, at most
MODULES = ("fastapi", "uvicorn", "httptools", "prometheus_client")


def main(argv: list[str]) -> None:
    """Run the command; see `--help`."""
    options = options_of(argv)
    for module in MODULES:
        need(module, extra="serve")
    from lstm_sentiment.serving.lifecycle import bound, is_loopback, new_server

    log_to(sys.stderr, logging.INFO if options.log_requests else logging.WARNING)
    with bound(options.host, options.port) as listening:
        import torch  # not for --help, not for a taken port

        from lstm_sentiment.serving.application import OPEN_PATHS, create_app
        from lstm_sentiment.serving.limits import Access
        from lstm_sentiment.serving.models import open_models
        from lstm_sentiment.serving.responses import Limits
        from lstm_sentiment.serving.server import Server

        torch.set_num_threads(options.threads)
        sys.setswitchinterval(SWITCH_S)
        need("prometheus_client", extra="serve").disable_created_metrics()
        how = {"device": options.device, "precision": options.precision}
        models = open_models(options.run, **how, threads=options.threads)
        limits = Limits(body=options.max_body, texts=options.max_texts, characters=options.max_characters)
        queueing = {"batch": options.batch, "most_waiting": options.queue}
        wait_s = options.wait_ms / 1000
        server = Server(models, limits=limits, wait_s=wait_s, rows=options.rows, **queueing)
        loopback = is_loopback(options.host)
        access = Access(
            token=options.token,
            open_paths=OPEN_PATHS,
            loopback=loopback,
            body=options.max_body,
            log_requests=options.log_requests,
        )
        if not loopback and options.token is None:
            say(
                f"warning: {options.host} is open to other machines; give --token, or {TOKEN}",
                file=sys.stderr,
            )
        host, port = listening.getsockname()[:2]
        named = f"[{host}]" if ":" in host else host
        names = ", ".join(model.name for model in models)

        def ready() -> None:
            say(f"serving {names} on http://{named}:{port} (page: /, API: /docs); stop with Ctrl+C")
            sys.stdout.flush()

        new_server(create_app(server, access), ready).run([listening])


def options_of(argv: list[str]) -> argparse.Namespace:
    """Return the options of a command line.

    Raises:
        ConfigError: a number out of range, a token that is too short.

    >>> options_of(["starter", "--port", "0"]).run
    ['starter']
    """
    parser = CommandParser(prog=program("serve"), description=__doc__)
    parser.add_argument(
        "run", nargs="+", help=f"{RUN}; or a folder written by export. Several are served by name"
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; default: this machine only"
    )
    parser.add_argument("--port", type=int, default=8000, help="port to listen on; 0 for any free one")
    parser.add_argument(
        "--token",
        default=os.environ.get(TOKEN) or None,
        help=f"requests must have the header Authorization: Bearer TOKEN; default: the variable {TOKEN}",
    )
    parser.add_argument("--batch", type=int, default=24, help="most texts predicted at once; 1: each alone")
    parser.add_argument(
        "--wait-ms", type=float, default=2.0, help="longest wait of a request for others, in milliseconds"
    )
    parser.add_argument("--queue", type=int, default=4096, help="texts that may wait; further ones get 503")
    parser.add_argument("--max-body", type=int, default=1 << 20, help="largest request in bytes")
    parser.add_argument("--max-texts", type=int, default=1024, help="most texts of a request")
    parser.add_argument("--max-characters", type=int, default=250_000, help="most characters of a text")
    parser.add_argument(
        "--threads", type=int, default=1, help="threads of the model; one more answers requests"
    )
    parser.add_argument(
        "--rows",
        action="store_true",
        help="show mistakes also of runs that were not trained on this machine, which name the files to read",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    add_precision_option(parser)
    parser.add_argument(
        "--log-requests",
        action="store_true",
        help="log method, path, status and time of requests, never texts",
    )
    options = parser.parse_args(argv)
    _check(options)
    return options


def _check(options: argparse.Namespace) -> None:
    """Refuse numbers out of range."""
    ranges = {
        "port": (0, 65_535),
        "batch": (1, 8192),
        "wait_ms": (0, 1000),
        "queue": (1, 10**7),
        "max_body": (1, 1 << 30),
        "max_texts": (1, 10**6),
        "max_characters": (1, 10**8),
        "threads": (1, 1024),
    }
    for name, (least, most) in ranges.items():
        value = getattr(options, name)
        if not least <= value <= most:
            key = f"--{name.replace('_', '-')}"
            raise ConfigError(f"must lie between {least:,} and {most:,}, not {value}", key=key)
    if options.token is not None and (
        len(options.token) < SHORTEST_TOKEN or not options.token.isascii() or not options.token.isprintable()
    ):
        problem = f"must have at least {SHORTEST_TOKEN} characters, all of them printable ASCII"
        raise ConfigError(problem, key="--token")


if __name__ == "__main__":
    run_command(main)
