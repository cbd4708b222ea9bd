"""Predictions in the forms of the two protocols: Hugging Face's task, and the Open Inference Protocol."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lstm_sentiment.errors import did_you_mean, shown
from lstm_sentiment.explanation.attribution import Explanation
from lstm_sentiment.serving.models import Model, Read, label_set
from lstm_sentiment.serving.schemas import InferRequest, Parameters, RequestError
from lstm_sentiment.version import __version__

OUTPUTS = ("label", "score", "probabilities")  # of the Open Inference Protocol


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Largest sizes of a request.

    Args:
        body: bytes.
        texts: per request.
        characters: per text.
        explained: texts per request that are explained.
    """

    body: int = 1 << 20
    texts: int = 1024
    characters: int = 250_000
    explained: int = 8


def check_texts(texts: Sequence[str], limits: Limits, field: str, *, explained: bool = False) -> None:
    """Check the number of texts of a request, and their lengths.

    Raises:
        RequestError: 413, with the field.

    >>> check_texts(["so", "good"], Limits(characters=3), "inputs")
    Traceback (most recent call last):
        ...
    lstm_sentiment.serving.schemas.RequestError: inputs[1]: has 4 characters; at most 3 are read
    """
    most = limits.explained if explained else limits.texts
    if len(texts) > most:
        what = "texts can be explained at once" if explained else "texts per request are read"
        raise RequestError(f"has {len(texts):,} texts; at most {most:,} {what}", status=413, field=field)
    for place, text in enumerate(texts):
        if len(text) > limits.characters:
            problem = f"has {len(text):,} characters; at most {limits.characters:,} are read"
            raise RequestError(problem, status=413, field=f"{field}[{place}]")


def predictions_as_json(
    model: Model, read: Sequence[Read], asked: Parameters, explanations: Sequence[Explanation]
) -> list[Any]:
    """Return the response of `/predict`: a list of scores per text, or an object if more was asked for.

    Args:
        model: that predicted.
        read: of each text.
        asked: parameters of the request.
        explanations: of each text if they were asked for, else none.

    Raises:
        ConfigError: a coverage, and a run without thresholds.
    """
    responses: list[Any] = []
    for place, of in enumerate(read):
        order = sorted(range(len(model.labels)), key=lambda i: -of.probabilities[i])
        scores = [{"label": model.labels[i], "score": of.probabilities[i]} for i in order[: asked.top_k]]
        if asked.coverage is None and asked.abstain_below is None and not asked.explain:
            responses.append(scores)
            continue
        sure = of.probabilities[order[0]] >= (asked.abstain_below or 0.0)
        found: dict[str, Any] = {"label": model.labels[order[0]] if sure else None, "scores": scores}
        if asked.coverage is not None:
            found["label_set"] = label_set(model, of.probabilities, asked.coverage)
        if asked.explain:
            found["explanation"] = attributions(explanations[place])
        responses.append(found)
    return responses


def attributions(explanation: Explanation) -> dict[str, Any]:
    """Return the attributions of an explanation as JSON values.

    Example::

        attributions(classifier.explain("so-so"))["tokens"][0]["attributions"]
    """
    rows = zip(explanation.tokens, explanation.known, explanation.attributions.tolist(), strict=True)
    return {
        "method": explanation.method,
        "faithfulness": explanation.faithfulness,
        "cut_tokens": explanation.cut_tokens,
        "cut_at": explanation.cut_at,
        "tokens": [
            {
                "token": token,
                "known": known,
                "attributions": dict(zip(explanation.labels, row_C, strict=True)),
            }
            for token, known, row_C in rows
        ],
    }


def model_named(models: Sequence[Model], name: str | None, *, field: str | None = None) -> Model:
    """Return a model by its name; the first one if no name is given.

    Raises:
        RequestError: 404, with the names that there are.
    """
    if name is None:
        return models[0]
    for model in models:
        if model.name == name:
            return model
    names = [model.name for model in models]
    problem = f"no model {shown(name)}; there is {', '.join(names)}.{did_you_mean(name, names)}"
    raise RequestError(problem, status=404, field=field)


def metadata(model: Model) -> dict[str, Any]:
    """Return the metadata of a model for the Open Inference Protocol."""
    return {
        "name": model.name,
        "versions": [__version__],
        "platform": "onnxruntime_onnx" if model.kind == "onnx" else "pytorch_lstm_sentiment",
        "inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1]}],
        "outputs": [
            {"name": "label", "datatype": "BYTES", "shape": [-1]},
            {"name": "score", "datatype": "FP64", "shape": [-1]},
            {"name": "probabilities", "datatype": "FP64", "shape": [-1, len(model.labels)]},
        ],
        "labels": model.labels,
    }


def texts_of(request: InferRequest) -> list[str]:
    """Return the texts of a request of the Open Inference Protocol.

    A tensor with the parameter ``"content_type": "base64"`` has base64-encoded UTF-8.

    Raises:
        RequestError: 422: not texts, or another number of them than the shape says.

    >>> tensor = {"name": "text", "shape": [2, 1], "datatype": "BYTES", "data": [["so"], ["good"]]}
    >>> texts_of(InferRequest.model_validate({"inputs": [tensor]}))
    ['so', 'good']
    """
    tensor = request.inputs[0]
    flat: list[Any] = tensor.data
    while flat and all(isinstance(of, list) for of in flat):
        flat = [item for of in flat for item in of]
    size = 1
    for length in tensor.shape:
        size *= length
    if not tensor.shape or any(length < 0 for length in tensor.shape) or size != len(flat):
        problem = f"is {tensor.shape}, and there are {len(flat):,} texts"
        raise RequestError(problem, status=422, field="inputs[0].shape")
    texts: list[str] = []
    encoded = (tensor.parameters or {}).get("content_type") == "base64"
    for place, text in enumerate(flat):
        field = f"inputs[0].data[{place}]"
        if not isinstance(text, str):
            raise RequestError("must be a string", status=422, field=field)
        try:
            texts.append(base64.b64decode(text, validate=True).decode("utf-8") if encoded else text)
        except (binascii.Error, ValueError):
            raise RequestError("is not base64-encoded UTF-8", status=422, field=field) from None
    return texts


def outputs_of(request: InferRequest) -> list[str]:
    """Return the names of the outputs that a request asks for; all by default.

    Raises:
        RequestError: 422: there is no such output.
    """
    names = [output.name for output in request.outputs or ()] or list(OUTPUTS)
    for place, name in enumerate(names):
        if name not in OUTPUTS:
            problem = f"no output {shown(name)}; there are {', '.join(OUTPUTS)}.{did_you_mean(name, OUTPUTS)}"
            raise RequestError(problem, status=422, field=f"outputs[{place}].name")
    return names


def infer_response(model: Model, request: InferRequest, read: Sequence[Read]) -> dict[str, Any]:
    """Return the response of the Open Inference Protocol to a request.

    Raises:
        RequestError: 422: there is no such output.
    """
    best = [max(range(len(model.labels)), key=of.probabilities.__getitem__) for of in read]
    rows = len(read)
    tensors = {
        "label": ("BYTES", [rows], [model.labels[i] for i in best]),
        "score": ("FP64", [rows], [of.probabilities[i] for of, i in zip(read, best, strict=True)]),
        "probabilities": ("FP64", [rows, len(model.labels)], [p for of in read for p in of.probabilities]),
    }
    outputs = [
        {"name": name, "datatype": tensors[name][0], "shape": tensors[name][1], "data": tensors[name][2]}
        for name in outputs_of(request)
    ]
    own = {"id": request.id} if request.id is not None else {}
    return {"model_name": model.name, "model_version": __version__, **own, "outputs": outputs}
