"""Requests and answers as clients send and read them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr

Text = StrictStr
Texts = Text | list[Text]


class Body(BaseModel):
    """A request: unknown fields are allowed, as clients send more than is used here."""

    model_config = ConfigDict(extra="ignore")


class Embeddings(Body):
    """POST /v1/embeddings, as OpenAI's clients send it."""

    input: Text | list[Text] | list[StrictInt] | list[list[StrictInt]]
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[StrictInt, Field(ge=1)] | None = None
    user: str | None = None


class Embed(Body):
    """POST /embed: texts to vectors; ``truncate`` cuts what is longer than the model, and the answer's headers say so;
    ``long="windows"`` reads it in overlapping windows."""

    inputs: Texts
    model: str | None = None
    normalize: bool = True
    pooling: Literal["mean", "cls", "max"] | None = None
    truncate: bool = False
    long: Literal["refuse", "windows"] = "refuse"
    prompt_name: str | None = None


class Predict(Body):
    """POST /predict and /classify: a text, a pair, or many of either."""

    inputs: Text | list[Text | list[Text]]
    model: str | None = None
    truncate: bool = False


class Pairing(Body):
    """The texts of /similarity."""

    source_sentence: Text
    sentences: Annotated[list[Text], Field(min_length=1)]


class Similarity(Body):
    """POST /similarity: cosines of one sentence with many."""

    inputs: Pairing
    model: str | None = None
    truncate: bool = False


class Tokenize(Body):
    """POST /tokenize."""

    inputs: Texts
    model: str | None = None
    add_special_tokens: bool = True


class Rerank(Body):
    """POST /rerank: ``documents`` (answered as Cohere and Jina do) or ``texts`` (answered as TEI does)."""

    query: Text
    documents: list[Text | dict[str, Any]] | None = None
    texts: list[Text] | None = None
    model: str | None = None
    top_n: Annotated[StrictInt, Field(ge=1)] | None = None
    return_documents: bool = False
    return_text: bool = False
    raw_scores: bool = False
    truncate: bool = True


class FillMask(Body):
    """POST /fill-mask."""

    inputs: Texts
    model: str | None = None
    top_k: Annotated[StrictInt, Field(ge=1, le=100)] = 5
    truncate: bool = False


class Tag(Body):
    """POST /tag."""

    inputs: Texts
    model: str | None = None


class Answer(Body):
    """POST /answer: a question on a context, or lists of both of the same length."""

    question: Texts
    context: Texts
    model: str | None = None
    top_k: Annotated[StrictInt, Field(ge=1, le=50)] = 1


class Choose(Body):
    """POST /choose: which of the choices goes on from the prompt."""

    prompt: Text
    choices: Annotated[list[Text], Field(min_length=2)]
    question: str | None = None
    model: str | None = None


class Translate(Body):
    """POST /translate: texts in another language; languages may be left out where the model knows one direction only."""

    inputs: Texts
    source: str | None = None
    target: str | None = None
    model: str | None = None
    num_beams: Annotated[StrictInt, Field(ge=1, le=16)] = 4
    length_penalty: Annotated[float, Field(ge=-10, le=10)] = 1.0
    max_new_tokens: Annotated[StrictInt, Field(ge=1, le=512)] | None = None
    truncate: bool = False


class Fault(BaseModel):
    """Every answer that is not 200: what is wrong, its kind, and the parameter at fault."""

    error: str
    error_type: str
    param: str | None = None


class OpenAIDetail(BaseModel):
    """What is wrong, as OpenAI's clients read it."""

    message: str
    type: str
    param: str | None = None
    code: int


class OpenAIFault(BaseModel):
    """Every answer of a route under /v1 that is not 200."""

    error: OpenAIDetail
