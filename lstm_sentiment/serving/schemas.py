"""Requests and responses as pydantic models, and what is wrong with a request in one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lstm_sentiment.errors import SentimentError, did_you_mean, shown

Request = TypeVar("Request", bound=BaseModel)


class RequestError(SentimentError):
    """A request that cannot be answered.

    Args:
        message: what was found and what was expected.
        status: of HTTP.
        field: such as ``inputs[3]``; None if it is none in particular.
        headers: of the response.
    """

    def __init__(
        self, message: str, *, status: int, field: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        self.message, self.status, self.field, self.headers = message, status, field, dict(headers or {})
        super().__init__(f"{field}: {message}" if field else message)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Parameters(_Strict):
    """Optional parameters of `/predict`."""

    top_k: int | None = Field(None, ge=1, description="the most probable classes only; all by default")
    coverage: float | None = Field(
        None, gt=0, lt=1, description="also the conformal label set at this coverage, such as 0.9"
    )
    abstain_below: float | None = Field(
        None, ge=0, le=1, description="the label is null if its probability is below this"
    )
    explain: bool = Field(False, description="also what each token contributes to each class")
    model: str | None = Field(None, description="name of the model, if the server has several")


class PredictRequest(_Strict):
    """Texts to classify, in the form of the Hugging Face task ``text-classification``."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"inputs": ["Beyond comprehension"], "parameters": {"coverage": 0.9}}]
        }
    )
    inputs: str | list[str] = Field(description="a text, or a list of texts")
    parameters: Parameters = Field(default_factory=lambda: Parameters.model_validate({}))


class Score(BaseModel):
    """A class and its probability."""

    label: str
    score: float


class Attribution(BaseModel):
    """A token, and its contribution to each class's logit, in nats."""

    token: str
    known: bool = Field(description="whether the token is in the vocabulary")
    attributions: dict[str, float]


class Explained(BaseModel):
    """The attributions of a prediction."""

    method: str
    faithfulness: float | None
    cut_tokens: int = Field(description="tokens that were not read, since the text is too long")
    cut_at: int | None = Field(description="how many of the tokens come before these; null without any")
    tokens: list[Attribution]


class Detailed(BaseModel):
    """The prediction for a text, if parameters ask for more than the scores."""

    label: str | None = Field(description="the most probable class; null if abstained")
    scores: list[Score]
    label_set: list[str] | None = Field(None, description="with `coverage`")
    explanation: Explained | None = Field(None, description="with `explain`")


class Failure(BaseModel):
    """Why a request was refused."""

    error: str
    field: str | None = None


class InferInput(BaseModel):
    """A tensor of the Open Inference Protocol: texts."""

    model_config = ConfigDict(strict=True)
    name: str
    shape: list[int]
    datatype: Literal["BYTES"] = Field(description="BYTES: texts")
    parameters: dict[str, Any] | None = None
    data: list[Any] = Field(description="texts; a nested list is read row by row")


class InferOutput(BaseModel):
    """The name of an output to return."""

    model_config = ConfigDict(strict=True)
    name: str
    parameters: dict[str, Any] | None = None


class InferRequest(BaseModel):
    """A request of the Open Inference Protocol, version 2."""

    model_config = ConfigDict(strict=True)
    id: str | None = None
    parameters: dict[str, Any] | None = None
    inputs: list[InferInput] = Field(min_length=1, max_length=1, description="one tensor of texts")
    outputs: list[InferOutput] | None = None


class Tensor(BaseModel):
    """A tensor of a response of the Open Inference Protocol."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any]


class InferResponse(BaseModel):
    """A response of the Open Inference Protocol."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[Tensor]


def parsed(kind: type[Request], body: bytes) -> Request:
    """Return a request from JSON.

    Raises:
        RequestError: 422, with the field.

    >>> parsed(PredictRequest, b'{"inputs": "so-so"}').inputs
    'so-so'
    >>> parsed(PredictRequest, b'{"inputs": ["so-so", 3]}')
    Traceback (most recent call last):
        ...
    lstm_sentiment.serving.schemas.RequestError: inputs[1]: must be a string
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise _problem(error.errors(include_url=False, include_context=True), kind) from None


def _problem(errors: Sequence[Any], kind: type[BaseModel]) -> RequestError:
    """Return the problem of the first field that is wrong."""
    # A union reports what is wrong with each of its members; the one with an index names the place.
    found = max(errors[:20], key=lambda of: any(isinstance(part, int) for part in of["loc"]))
    field = _place(found["loc"])
    reason = found["type"]
    if reason == "json_invalid":
        message = (
            f"the body is not JSON: {found['ctx']['error']}" if "ctx" in found else "the body is not JSON"
        )
        return RequestError(message, status=422)
    if reason == "extra_forbidden":
        name = str(found["loc"][-1])
        known = Parameters.model_fields if len(found["loc"]) > 1 else kind.model_fields
        message = f"no such field; there are {', '.join(known)}.{did_you_mean(name, known)}"
    elif reason == "missing":
        message = "is missing"
    elif reason in ("string_type", "list_type") and found["loc"][0] == "inputs" and kind is PredictRequest:
        whole = len([part for part in found["loc"] if isinstance(part, int)]) == 0
        message = "must be a string or a list of strings" if whole else "must be a string"
    else:
        message = found["msg"].replace("Input should", "must").replace("must be a valid", "must be a")
    return RequestError(message if field else f"the body {message}", status=422, field=field or None)


def _place(loc: Sequence[str | int]) -> str:
    """Return a place such as ``inputs[3]`` or ``parameters.top_k``.

    >>> _place(("inputs", "list[str]", 3)), _place(("parameters", "top_k")), _place(("x" * 99,))[:9]
    ('inputs[3]', 'parameters.top_k', "'xxxxxxxx")
    """
    place = ""
    for part in loc:
        if isinstance(part, int):
            place += f"[{part}]"
        elif part.isidentifier() and len(part) < 40:
            if part == "str" and place == "inputs":  # a member of the union
                continue
            place += f".{part}" if place else part
        elif part != "list[str]":
            place += f".{shown(part, 20)}" if place else shown(part, 20)
    return place
