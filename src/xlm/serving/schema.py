"""Requests and answers as clients send and read them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr

Name = Annotated[StrictStr, Field(max_length=1000)]
Text = StrictStr
# The first wrong item is told and no other: there may be millions.
TextList = Annotated[list[Text], Field(fail_fast=True)]
Ids = Annotated[list[StrictInt], Field(fail_fast=True)]
Texts = Text | TextList
Sides = Annotated[list[Text], Field(fail_fast=True, min_length=1, max_length=2)]


class Body(BaseModel):
    """A request: unknown fields are allowed, as clients send more than is used here."""

    model_config = ConfigDict(extra="ignore")


class Asked(Body):
    """A request to one of the server's models, in one of its languages."""

    model: Name | None = None
    lang: Annotated[StrictStr, Field(max_length=50)] | None = None
    """Of the texts, for XLM models: chooses the rules that split words and the language embedding."""


class Cuttable(Asked):
    """A request whose texts may be cut, at their end."""

    truncate: StrictBool = False
    truncation_direction: Literal["Right", "right"] = "Right"
    """Text-embeddings-inference knows ``Left`` too, which is refused here."""


class Embeddings(Asked):
    """POST /v1/embeddings, as OpenAI's clients send it."""

    input: Text | TextList | Ids | Annotated[list[Ids], Field(fail_fast=True)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[StrictInt, Field(ge=1)] | None = None
    user: Name | None = None


class Embed(Cuttable):
    """POST /embed: texts to vectors; ``truncate`` cuts what is longer than the model, and the answer's headers say so;
    ``dimensions`` keeps the first ones;
    ``long="windows"`` reads it in overlapping windows."""

    inputs: Texts
    normalize: StrictBool = True
    pooling: Literal["mean", "cls", "max"] | None = None
    long: Literal["refuse", "windows"] = "refuse"
    prompt_name: Name | None = None
    dimensions: Annotated[StrictInt, Field(ge=1)] | None = None


class EmbedAll(Cuttable):
    """POST /embed_all: texts to all vectors that the checkpoint has; how they are pooled is the checkpoint's to say."""

    inputs: Texts
    prompt_name: Name | None = None


class Predict(Cuttable):
    """POST /predict, as TEI reads it: a text, a list of one or two texts (a pair), or a list of such lists (many inputs)."""

    inputs: Text | Sides | Annotated[list[Sides], Field(fail_fast=True)]
    raw_scores: StrictBool = False


class Label(BaseModel):
    """A label of POST /predict, and its probability; with ``raw_scores`` its logit."""

    label: str
    score: float


class Classify(Cuttable):
    """POST /classify: a text, or a list of texts and pairs."""

    inputs: Text | Annotated[list[Text | TextList], Field(fail_fast=True)]


class Pairing(Body):
    """The texts of /similarity."""

    source_sentence: Text
    sentences: Annotated[TextList, Field(min_length=1)]


class Similarity(Cuttable):
    """POST /similarity: cosines of one sentence with many."""

    inputs: Pairing


class Tokenize(Asked):
    """POST /tokenize."""

    inputs: Texts
    add_special_tokens: StrictBool = True


class Rerank(Cuttable):
    """POST /rerank: ``documents`` (answered as Cohere and Jina do) or ``texts`` (answered as TEI does)."""

    query: Text
    documents: Annotated[list[Text | dict[str, Any]], Field(fail_fast=True)] | None = None
    texts: TextList | None = None
    top_n: Annotated[StrictInt, Field(ge=1)] | None = None
    return_documents: StrictBool = False
    return_text: StrictBool = False
    raw_scores: StrictBool = False


class FillMask(Cuttable):
    """POST /fill-mask."""

    inputs: Texts
    top_k: Annotated[StrictInt, Field(ge=1, le=100)] = 5


class Tag(Asked):
    """POST /tag."""

    inputs: Texts


class Answer(Asked):
    """POST /answer: a question on a context, or lists of both of the same length."""

    question: Texts
    context: Texts
    top_k: Annotated[StrictInt, Field(ge=1, le=50)] = 1


class Choose(Asked):
    """POST /choose: which of the choices goes on from the prompt."""

    prompt: Text
    choices: Annotated[TextList, Field(min_length=2)]
    question: Text | None = None


class Translate(Body):
    """POST /translate: texts in another language; languages may be left out where the model knows one direction only."""

    inputs: Texts
    source: Name | None = None
    target: Name | None = None
    model: Name | None = None
    num_beams: Annotated[StrictInt, Field(ge=1, le=16)] = 4
    length_penalty: Annotated[float, Field(ge=-10, le=10)] = 1.0
    max_new_tokens: Annotated[StrictInt, Field(ge=1, le=512)] | None = None
    truncate: StrictBool = False


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
