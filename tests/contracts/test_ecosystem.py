"""The models where users put them: transformers' Trainer, accelerate, peft adapters, sentence-transformers modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
import xlm
from seeds.words import roberta_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore")
WITH_LOSS = [head for head in tiny.HEADS if head.kind != "model"]
# The quick run takes one head a family, `make test-all` takes all.
EVERY = pytest.mark.parametrize(
    "head",
    [pytest.param(h, marks=() if h in tiny.ONE_A_FAMILY else pytest.mark.slow, id=str(h)) for h in WITH_LOSS],
)
CLASSIFY = [head for head in tiny.HEADS if head.kind == "classify"]


class Rows(torch.utils.data.Dataset):
    """Random rows and labels for a head."""

    def __init__(self, head: tiny.Head, count: int = 12) -> None:
        ids = tiny.ids(head, count)
        labels = tiny.labels(head, ids)
        self.rows = [
            {"input_ids": ids[i], "attention_mask": torch.ones_like(ids[i]), **{k: v[i] for k, v in labels.items()}}
            for i in range(count)
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> dict[str, torch.Tensor]:
        return self.rows[place]


@EVERY
def test_transformers_trainer(head: tiny.Head, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model, rows = tiny.model(head), Rows(head)
    arguments = transformers.TrainingArguments(
        str(tmp_path),
        max_steps=6,
        per_device_train_batch_size=4,
        learning_rate=3e-3,
        save_steps=6,
        logging_steps=3,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        eval_strategy="no" if head.kind == "beam" else "steps",
        eval_steps=6,
        label_names=list(tiny.labels(head, tiny.ids(head))),
        gradient_checkpointing=True,
    )
    trainer = transformers.Trainer(model=model, args=arguments, train_dataset=rows, eval_dataset=rows)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    result = trainer.train()
    assert result.training_loss > 0 and any(not torch.equal(p, before[name]) for name, p in model.named_parameters())
    # The trainer knows only its own library's models as models with a config: it saves the bare state dict of ours.
    saved, report = head.cls.from_pretrained(tmp_path / "checkpoint-6", config=model.config, output_loading_info=True)
    assert not any(report.values())
    for name, p in model.named_parameters():
        assert torch.equal(p.cpu(), saved.get_parameter(name)), name
    if head.kind != "beam":
        assert "eval_loss" in trainer.evaluate()
        assert trainer.predict(rows).predictions is not None
    arguments.max_steps = 8
    resumed = transformers.Trainer(model=tiny.model(head), args=arguments, train_dataset=rows, eval_dataset=rows)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert resumed.state.global_step == 8


@EVERY
def test_accelerate(head: tiny.Head, tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = tiny.model(head)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loader = torch.utils.data.DataLoader(Rows(head), batch_size=3)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    model.train()
    for rows in loader:
        with accelerator.accumulate(model):
            accelerator.backward(model(**rows).loss)
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    plain = accelerator.unwrap_model(model)
    assert type(plain) is head.cls
    plain.save_pretrained(tmp_path, save_function=accelerator.save, state_dict=accelerator.get_state_dict(model))
    again = head.cls.from_pretrained(tmp_path)
    assert all(torch.equal(p, again.get_parameter(name)) for name, p in plain.named_parameters())
    accelerator.save_state(str(tmp_path / "state"))
    accelerator.load_state(str(tmp_path / "state"))


@pytest.mark.parametrize("head", [head for head in tiny.HEADS if head.kind not in ("model", "beam", "choose")], ids=str)
def test_peft_lora(head: tiny.Head, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    kinds = {"masked": None, "causal": "CAUSAL_LM", "classify": "SEQ_CLS", "tag": "TOKEN_CLS", "answer": "QUESTION_ANS"}
    options: dict[str, Any] = {"target_modules": ["query", "value"], "r": 4, "task_type": kinds[head.kind]}
    if head.kind == "classify":
        options["modules_to_save"] = ["sequence_summary" if head.family == "xlm" else "classifier"]
    base = tiny.model(head)
    adapted = peft.get_peft_model(base, peft.LoraConfig(**options))
    ids = tiny.ids(head)
    labels = tiny.labels(head, ids)
    before = adapted(input_ids=ids, **labels).loss.detach()
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=1e-2)
    adapted.train()
    for _ in range(25):
        optimizer.zero_grad()
        adapted(input_ids=ids, **labels).loss.backward()
        optimizer.step()
    adapted.eval()
    after = adapted(input_ids=ids, **labels)
    assert after.loss < before
    adapted.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(tiny.model(head), tmp_path).eval()
    torch.testing.assert_close(again(input_ids=ids, **labels).loss, after.loss)
    merged = again.merge_and_unload()
    assert type(merged) is head.cls
    torch.testing.assert_close(merged(input_ids=ids, **labels).loss, after.loss, rtol=1e-4, atol=1e-5)


def test_an_adapter_moves_between_libraries(tmp_path: Path) -> None:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    head = next(head for head in CLASSIFY if head.family == "xlm-roberta")
    ours = tiny.model(head)
    ours.save_pretrained(tmp_path / "base")
    config = peft.LoraConfig(
        target_modules=["query", "value"],
        r=4,
        task_type="SEQ_CLS",
        modules_to_save=["classifier"],
        init_lora_weights=False,
    )
    adapted = peft.get_peft_model(ours, config).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    theirs = transformers.XLMRobertaForSequenceClassification.from_pretrained(tmp_path / "base")
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter").eval()
    ids = tiny.ids(head)
    torch.testing.assert_close(theirs(ids).logits, adapted(ids).logits, rtol=1e-5, atol=1e-5)


class Words:
    """The least that a sentence-transformers module asks of a tokenizer: a word is an id."""

    model_max_length = 16

    def __call__(self, texts: list[str]) -> dict[str, torch.Tensor]:
        rows = [[0, *(4 + sum(map(ord, word)) % 30 for word in text.split()), 2] for text in texts]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [1] * (longest - len(row)) for row in rows])
        return {"input_ids": ids, "attention_mask": (ids != 1).long()}


@pytest.mark.parametrize("head", tiny.MODELS, ids=str)
def test_sentence_transformers_module(head: tiny.Head) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    from sentence_transformers.models import Pooling

    class Ours(torch.nn.Module):
        """One of our models as the first module of a pipeline."""

        def __init__(self) -> None:
            super().__init__()
            self.model, self.tokenizer = tiny.model(head), Words()

        def tokenize(self, texts: list[str], **_options: Any) -> dict[str, torch.Tensor]:
            return self.tokenizer(texts)

        preprocess = tokenize

        def forward(self, features: dict[str, Any], **_options: Any) -> dict[str, Any]:
            output = self.model(input_ids=features["input_ids"], attention_mask=features["attention_mask"])
            return {**features, "token_embeddings": output.last_hidden_state}

    pipeline = sentence_transformers.SentenceTransformer(modules=[Ours(), Pooling(tiny.HIDDEN)], device="cpu")
    texts = ["a nice puppet", "Hello", "my dog is cute and small"]
    vectors = pipeline.encode(texts, convert_to_tensor=True, normalize_embeddings=True)
    features = Words()(texts)
    states = tiny.model(head)(**features).last_hidden_state
    mask = features["attention_mask"][..., None]
    want = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
    torch.testing.assert_close(vectors, want, rtol=1e-5, atol=1e-5)


def test_sentence_transformers_opens_what_we_save(tmp_path: Path) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    from sentence_transformers.models import Pooling, Transformer

    texts = ["Hello world", "Ein Hund", "my dog is cute"]
    roberta_checkpoint(tmp_path / "model", texts)
    pooling = Pooling(tiny.HIDDEN)
    pipeline = sentence_transformers.SentenceTransformer(
        modules=[Transformer(str(tmp_path / "model")), pooling], device="cpu"
    )
    vectors = pipeline.encode(texts)
    given = xlm.AutoTokenizer.from_pretrained(tmp_path / "model")(texts, padding=True, return_tensors="pt")
    states = xlm.XLMRobertaModel.from_pretrained(tmp_path / "model")(**given).last_hidden_state
    mask = given["attention_mask"][..., None]
    torch.testing.assert_close(torch.from_numpy(vectors), (states * mask).sum(1) / mask.sum(1), rtol=1e-4, atol=1e-5)
