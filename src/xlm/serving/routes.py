"""The routes. Each names its texts, checks their number, and asks the engine in a thread."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response

from xlm.serving import schema
from xlm.serving.direct import Direct, Json
from xlm.serving.errors import Refused
from xlm.serving.served import Desk, Served, still_wanted
from xlm.tasks.retrieve import normalized

_FAULT: dict[int | str, dict[str, Any]] = {
    "default": {"model": schema.Fault, "description": "What is wrong with the request, or why it got no answer"}
}
_OPENAI_FAULT: dict[int | str, dict[str, Any]] = {"default": _FAULT["default"] | {"model": schema.OpenAIFault}}
# What parts of answers take in memory, with their JSON.
_BYTES_A_NUMBER = 16
_BYTES_A_TOKEN = 600
router = APIRouter(route_class=Direct, responses=_FAULT)


def _desk(request: Request) -> Desk:
    return request.app.state.desk


def _listed(texts: str | list[str]) -> list[str]:
    return [texts] if isinstance(texts, str) else texts


def _serve(
    request: Request, body: schema.Asked | schema.Translate, texts: Sequence[Any], param: str, task: str
) -> tuple[Desk, Served]:
    """The model of a request, which must be of the right kind, for so many texts, in the request's language."""
    desk = _desk(request)
    desk.check(texts, param)
    served = desk.find(body.model)
    if task not in served.engine.tasks:
        kind, tasks = type(served.engine.model).__name__, ", ".join(served.engine.tasks)
        raise Refused(422, f"{served.name} is a {kind}: it cannot {task}, but {tasks}", "model")
    return desk, served.speaking(body.lang) if isinstance(body, schema.Asked) else served


async def _answered(
    request: Request, desk: Desk, call: Callable[[], list[dict[str, Any]]]
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """What ``call`` answers, and the headers that name which inputs the answers say were cut."""
    found = await desk.ask(request.scope, call)
    cut = [one.get("index", place) for place, one in enumerate(found) if one.get("truncated")]
    return found, _cut_header(sorted(cut))


def _check_dimensions(served: Served, asked: int | None, status: int) -> None:
    width = served.engine.hidden_size
    if asked is not None and asked > width:
        raise Refused(status, f"dimensions is {asked}: this model has {width}", "dimensions")


def _shortened(vectors: Any, asked: int | None, normalize: bool) -> Any:
    """The first dimensions of vectors (n, hidden), of unit length again if they were."""
    if asked is None:
        return vectors
    short = np.ascontiguousarray(vectors[:, :asked])
    return normalized(short) if normalize else short


def _cut_header(indices: list[int]) -> dict[str, str]:
    """A cut is never silent."""
    return {"X-Truncated-Inputs": ",".join(map(str, indices[:100]))} if indices else {}


def _cut(served: Served, texts: list[str], lengths: list[int], prompt: str | None) -> list[int]:
    """Which of the texts that have ``lengths`` now were cut; only those that fill the model can have been."""
    full = [index for index, length in enumerate(lengths) if length >= served.engine.max_tokens]
    cut = served.engine.truncated([texts[index] for index in full], prompt=prompt) if full else []
    return [full[index] for index in cut]


async def _truncated(
    request: Request, desk: Desk, served: Served, texts: list[str], lengths: list[int], prompt: str | None = None
) -> list[int]:
    """`_cut`, in a thread where there is something to do."""
    if max(lengths, default=0) < served.engine.max_tokens:
        return []
    return await desk.ask(request.scope, lambda: _cut(served, texts, lengths, prompt))


# -- OpenAI -----------------------------------------------------------------------------------------------------------


@router.get("/v1/models", tags=["OpenAI"], responses=_OPENAI_FAULT)
async def models(request: Request) -> dict[str, Any]:
    """The models of this server."""
    return {
        "object": "list",
        "data": [{"id": name, "object": "model", "created": 0, "owned_by": "xlm"} for name in _desk(request).names],
    }


@router.post("/v1/embeddings", tags=["OpenAI"], responses=_OPENAI_FAULT)
async def embeddings(request: Request, body: schema.Embeddings) -> dict[str, Any]:
    """Vectors of unit length, as OpenAI's clients read them."""
    inputs: list[Any]
    if isinstance(body.input, str) or (body.input and isinstance(body.input[0], int)):
        inputs = [body.input]
    else:
        inputs = list(body.input)
    if not inputs:
        raise Refused(400, "input is empty: at least one text is needed", "input")
    _desk(request).count(inputs, "input")
    for index, item in enumerate(inputs):
        if not (item.strip() if isinstance(item, str) else item):
            raise Refused(400, f"input[{index}] is empty: a text is needed", "input")
    desk, served = _serve(request, body, inputs, "input", "embed")
    _check_dimensions(served, body.dimensions, 400)
    vectors, lengths = await desk.vectors(request.scope, served, inputs, normalize=True)  # whatever its folder says
    vectors = _shortened(vectors, body.dimensions, True)
    shown: Any = vectors
    if body.encoding_format == "base64":
        shown = [base64.b64encode(vector.astype("<f4", copy=False).tobytes()).decode("ascii") for vector in vectors]
    usage = {"prompt_tokens": sum(lengths), "total_tokens": sum(lengths)}
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(shown)]
    return {"object": "list", "data": data, "model": served.name, "usage": usage}


# -- Text embeddings inference ----------------------------------------------------------------------------------------


@router.post("/embed", tags=["vectors"], response_model=list[list[float]])
async def embed(request: Request, body: schema.Embed) -> Response:
    """Vectors of texts."""
    texts = _listed(body.inputs)
    desk, served = _serve(request, body, texts, "inputs", "embed")
    _check_dimensions(served, body.dimensions, 422)
    if body.long == "windows":
        if body.truncate:
            raise Refused(422, "truncate and long='windows': long texts are either cut or read whole", "truncate")
        options = {"pooling": body.pooling, "normalize": body.normalize, "prompt": body.prompt_name, "long": "windows"}
        found = await desk.ask(request.scope, lambda: served.engine.embed(texts, **options))
        return Json(_shortened(found, body.dimensions, body.normalize))
    vectors, lengths = await desk.vectors(
        request.scope, served, texts,
        pooling=body.pooling, normalize=body.normalize, prompt=body.prompt_name, truncate=body.truncate,
    )  # fmt: skip
    cut = await _truncated(request, desk, served, texts, lengths, body.prompt_name) if body.truncate else []
    return Json(_shortened(vectors, body.dimensions, body.normalize), headers=_cut_header(cut))


@router.post("/embed_all", tags=["vectors"], response_model=list[dict[str, Any]])
async def embed_all(request: Request, body: schema.EmbedAll) -> Response:
    """Dense, sparse and multi-vector outputs of one forward, for checkpoints that have those heads."""
    texts = _listed(body.inputs)
    desk, served = _serve(request, body, texts, "inputs", "embed")
    if (multi := served.engine.embedding.multi) is not None:
        longest = served.engine.max_tokens
        tokens = sum(min(len(text) + 3, longest) for text in texts)  # hardly ever more than characters
        desk.check_answer(tokens * len(multi.bias) * _BYTES_A_NUMBER, "inputs")

    def call() -> tuple[list[dict[str, Any]], list[int]]:
        rows = served.engine.embedding_rows(texts, prompt=body.prompt_name, truncate=body.truncate)
        cut = _cut(served, texts, list(map(len, rows)), body.prompt_name) if body.truncate else []
        return served.engine.embed_all(rows), cut

    found, cut = await desk.ask(request.scope, call)
    for item in found:
        if "sparse" in item:
            item["sparse"] = {str(token): weight for token, weight in item["sparse"].items()}
    return Json(found, headers=_cut_header(cut))


@router.post("/similarity", tags=["vectors"], response_model=list[float])
async def similarity(request: Request, body: schema.Similarity) -> Response:
    """Cosines of one sentence with many. Among what was cut, 0 is that sentence, 1 the first of the many."""
    texts = [body.inputs.source_sentence, *body.inputs.sentences]
    desk, served = _serve(request, body, texts, "inputs", "embed")
    vectors, lengths = await desk.vectors(request.scope, served, texts, normalize=True, truncate=body.truncate)
    cut = await _truncated(request, desk, served, texts, lengths) if body.truncate else []
    return Json((vectors[1:] @ vectors[0]).tolist(), headers=_cut_header(cut))


@router.post("/tokenize", tags=["vectors"])
async def tokenize(request: Request, body: schema.Tokenize) -> list[list[dict[str, Any]]]:
    """Tokens with their places in the text, in code points."""
    texts = _listed(body.inputs)
    desk = _desk(request)
    desk.check(texts, "inputs")
    desk.check_answer(sum(map(len, texts)) * _BYTES_A_TOKEN, "inputs")
    served = desk.find(body.model).speaking(body.lang)

    def call() -> list[list[dict[str, Any]]]:
        tokenizer = served.engine.tokenizer
        found = tokenizer(texts, add_special_tokens=body.add_special_tokens, return_offsets_mapping=True)
        special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}  # that one stands for something in the text
        answers = []
        for text, ids, spans in zip(texts, found["input_ids"], found["offset_mapping"], strict=True):
            tokens = tokenizer.convert_ids_to_tokens(list(ids))
            answers.append(
                [
                    {
                        "id": int(i),
                        "token": token,
                        "text": text[a:b],
                        "special": i in special,
                        "start": a,
                        "stop": b,
                    }
                    for i, token, (a, b) in zip(ids, tokens, spans, strict=True)
                ]
            )
        return answers

    return await desk.ask(request.scope, call)


@router.get("/info", tags=["service"])
async def info(request: Request, model: str | None = None) -> dict[str, Any]:
    """What runs here."""
    from xlm import __version__

    desk = _desk(request)
    served = desk.find(model)
    engine = served.engine
    return {
        "model_id": served.name,
        "models": list(desk.names),
        "model_type": engine.model.config.model_type,
        "architecture": type(engine.model).__name__,
        "model_dtype": engine.dtype,
        "device": str(engine.device),
        "max_input_length": engine.max_tokens,
        "hidden_size": engine.hidden_size,
        "tasks": engine.tasks,
        "directions": engine.directions,
        "languages": engine.languages,
        "lang": engine.lang,
        "max_client_batch_size": desk.settings.inputs,
        "max_batch_tokens": served.tokens_a_pack,
        "version": __version__,
    }


@router.post("/predict", tags=["tasks"], response_model=list[schema.Label] | list[list[schema.Label]])
async def predict(request: Request, body: schema.Predict) -> Response:
    """Labels as TEI answers them: a list of label and score for one input, a list of such lists for many. Values of a
    model that predicts values are scores as they are."""
    many = isinstance(body.inputs, list) and not (body.inputs and isinstance(body.inputs[0], str))
    inputs: list[Any] = body.inputs if many else [body.inputs]  # type: ignore[assignment]
    _desk(request).count(inputs, "inputs")
    sides = [[item] if isinstance(item, str) else item for item in inputs]
    pairs = [tuple(item) if len(item) == 2 else item[0] for item in sides]
    served, found, headers = await _classified(request, body, pairs, raw=body.raw_scores)
    kind = "logit" if body.raw_scores else "probability"
    names = served.engine.model.config.id2label
    answers = []
    for one in found:
        values = one["value"] if isinstance(one.get("value"), list) else [one.get("value")]
        valued = [{"label": names[index], "score": value} for index, value in enumerate(values)]
        scored = [{"label": label["label"], "score": label[kind]} for label in one.get("labels", ())]
        answers.append(valued if "value" in one else scored)
    return Json(answers if many else answers[0], headers=headers)


@router.post("/classify", tags=["tasks"], response_model=list[dict[str, Any]])
async def classify(request: Request, body: schema.Classify) -> Response:
    """Labels with probabilities, best first."""
    inputs: list[Any] = [body.inputs] if isinstance(body.inputs, str) else list(body.inputs)
    _desk(request).count(inputs, "inputs")
    pairs: list[Any] = [item if isinstance(item, str) else tuple(item) for item in inputs]
    for index, item in enumerate(pairs):
        if isinstance(item, tuple) and len(item) != 2:
            raise Refused(422, f"inputs[{index}] has {len(item)} texts: a text or a pair is needed", "inputs")
    _, found, headers = await _classified(request, body, pairs)
    return Json(found, headers=headers)


async def _classified(
    request: Request, body: schema.Predict | schema.Classify, pairs: list[Any], raw: bool = False
) -> tuple[Served, list[dict[str, Any]], dict[str, str]]:
    flat = [text for item in pairs for text in ([item] if isinstance(item, str) else item)]
    desk, served = _serve(request, body, flat, "inputs", "classify")
    found, headers = await _answered(
        request, desk, lambda: served.engine.classify(pairs, truncate=body.truncate, raw=raw)
    )
    return served, found, headers


# -- Reranking --------------------------------------------------------------------------------------------------------


@router.post("/rerank", tags=["vectors"])
@router.post("/v1/rerank", tags=["vectors"], responses=_OPENAI_FAULT)
@router.post("/v2/rerank", tags=["vectors"])
async def rerank(request: Request, body: schema.Rerank) -> Any:
    """Documents by relevance to the query, best first."""
    if (body.documents is None) == (body.texts is None):
        raise Refused(422, "give either documents or texts", "documents")
    param = "texts" if body.documents is None else "documents"
    items: list[Any] = list(body.documents or body.texts or [])
    _desk(request).count(items, param)
    texts = []
    for index, item in enumerate(items):
        text = item.get("text") if isinstance(item, dict) else item
        if not isinstance(text, str):
            raise Refused(422, f"{param}[{index}] has no field text", param)
        texts.append(text)
    if not texts:
        raise Refused(422, f"{param} is empty: at least one is needed", param)
    desk, served = _serve(request, body, [body.query, *texts], param, "rerank")
    found, headers = await _answered(
        request,
        desk,
        lambda: served.engine.rerank(body.query, texts, truncate=body.truncate, raw=body.raw_scores),
    )
    found = found[: body.top_n]
    if body.documents is None:
        scored = [
            {"index": one["index"], "score": one["score"]} | ({"text": texts[one["index"]]} if body.return_text else {})
            for one in found
        ]
        return Json(scored, headers=headers)
    results = [
        {"index": one["index"], "relevance_score": one["score"]}
        | ({"document": {"text": texts[one["index"]]}} if body.return_documents else {})
        for one in found
    ]
    answered = {
        "id": request.scope["xlm.id"],
        "model": served.name,
        "results": results,
        "meta": {"api_version": {"version": "2"}},
    }
    return Json(answered, headers=headers)


# -- Tasks ------------------------------------------------------------------------------------------------------------


@router.post("/fill-mask", tags=["tasks"], response_model=list[dict[str, Any]])
async def fill_mask(request: Request, body: schema.FillMask) -> Response:
    """The most probable tokens for every mask."""
    texts = _listed(body.inputs)
    desk, served = _serve(request, body, texts, "inputs", "fill-mask")
    mask = served.engine.tokenizer.mask_token
    filled = sum(text.count(mask) * (_BYTES_A_TOKEN + len(text)) for text in texts)  # each answer has the text filled
    desk.check_answer(filled * body.top_k, "inputs")
    found, headers = await _answered(
        request, desk, lambda: served.engine.fill_mask(texts, body.top_k, truncate=body.truncate)
    )
    return Json(found, headers=headers)


@router.post("/tag", tags=["tasks"])
async def tag(request: Request, body: schema.Tag) -> list[dict[str, Any]]:
    """Spans with labels, in code points of the text."""
    texts = _listed(body.inputs)
    desk, served = _serve(request, body, texts, "inputs", "tag")
    return await desk.ask(request.scope, lambda: served.engine.tag(texts))


@router.post("/answer", tags=["tasks"])
async def answer(request: Request, body: schema.Answer) -> list[dict[str, Any]]:
    """Answers as spans of their contexts."""
    questions, contexts = _listed(body.question), _listed(body.context)
    if len(questions) != len(contexts):
        raise Refused(
            422, f"question has {len(questions)} texts, context {len(contexts)}: as many are needed", "context"
        )
    desk, served = _serve(request, body, [*questions, *contexts], "context", "answer")
    return await desk.ask(request.scope, lambda: served.engine.answer(questions, contexts, top_k=body.top_k))


@router.post("/choose", tags=["tasks"])
async def choose(request: Request, body: schema.Choose) -> dict[str, Any]:
    """Which choice goes on from the prompt."""
    desk, served = _serve(request, body, [body.prompt, body.question or "", *body.choices], "choices", "choose")
    options: dict[str, Any] = {"questions": [body.question]} if body.question else {}
    found = await desk.ask(request.scope, lambda: served.engine.choose([body.prompt], [body.choices], **options))
    return found[0]


@router.post("/translate", tags=["tasks"], response_model=list[dict[str, Any]])
async def translate(request: Request, body: schema.Translate) -> Response:
    """Texts in another language."""
    texts = _listed(body.inputs)
    desk, served = _serve(request, body, texts, "inputs", "translate")
    options = body.model_dump(include={"num_beams", "length_penalty", "max_new_tokens", "truncate"})

    def call() -> tuple[list[dict[str, Any]], list[int]]:
        from xlm.tasks.translate import Sentences

        engine = served.engine
        found = engine.translate(texts, body.target, body.source, progress=still_wanted, **options)
        if not body.truncate or not found:
            return found, []
        sentences = Sentences(engine.tokenizer, engine.model.config, engine.max_tokens)
        rows = sentences.encode(texts, found[0]["source"])
        return found, [index for index, ids in enumerate(rows) if not sentences.fits(ids)]

    found, cut = await desk.ask(request.scope, call, served.writing)
    return Json(found, headers=_cut_header(cut))
