"""Training for translation, supervised and unsupervised: from text files to an encoder-decoder's folder.

    xlm finetune --task translate --model runs/xlm --train de-en=pairs.tsv --eval de-en=dev.tsv -o runs/de-en
    xlm finetune recipes/unmt-mini.yaml

The loop is that of fine-tuning: packed rows without padding, the fused loss, checkpoints that resume bit for bit, one
process or ``torchrun``, the same metrics, curves and signals. A *step* of the loop is a round: one update a job.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from xlm.atomic import write_text
from xlm.backends.torch.encoder_decoder import EncoderDecoderModel
from xlm.data.random import torch_seed
from xlm.data.vocabulary import folder_fingerprint
from xlm.errors import ConfigError
from xlm.families.auto import AutoConfig
from xlm.families.encoder_decoder import EncoderDecoderConfig
from xlm.folders import atomic_folder
from xlm.hub import resolve
from xlm.tasks.translate import Sentences
from xlm.tokenizers import AutoTokenizer
from xlm.training.finetune_best import best_folder, check_metric
from xlm.training.finetune_loop import Outcome, Work, conduct
from xlm.training.finetune_recipe import model_path
from xlm.training.output import remove_state
from xlm.training.report import Reporter
from xlm.training.runtime import Processes
from xlm.training.state import Progress, save_model
from xlm.training.translate_card import write_card
from xlm.training.translate_data import read_corpora
from xlm.training.translate_recipe import Translate
from xlm.training.translate_trainer import Translator, position_limit


def run(recipe: Translate, *, resume: bool | None = None, quiet: bool = False, check: bool = False) -> Outcome:
    """Run a recipe; with ``check`` only read and report on its data.

    Raises:
        ConfigError, DataError, InputError, CheckpointError, OutputError: see there; each names what is wrong and where.
        NonFiniteLoss: a loss or gradient is not finite; the weights of the last checkpoint are intact.
    """
    return conduct(recipe, _Translating, resume=resume, quiet=quiet, check=check)


def make_model(recipe: Translate) -> tuple[EncoderDecoderModel, Path]:
    """The recipe's encoder-decoder in float32, and the folder that its tokenizer is in.

    Raises:
        ConfigError: the two sides do not fit together, a field asks for what a model that is an encoder-decoder already
            cannot be, or nothing would tell the decoder which language to write.
    """
    torch.manual_seed(torch_seed(recipe.seed, "model"))
    folder = resolve(model_path(recipe.base, str(recipe.model)))
    config: Any = AutoConfig.from_pretrained(folder)
    if isinstance(config, EncoderDecoderConfig):
        _check_whole(recipe, config, folder)
        for side in (config.encoder, config.decoder):
            for name, value in _dropouts(recipe, side).items():
                setattr(side, name, value)
        model: Any = EncoderDecoderModel.from_pretrained(folder, config=config, dtype="float32")
    else:
        other = folder if recipe.decoder is None else resolve(model_path(recipe.base, recipe.decoder))
        _check_vocabularies(folder, other)
        sides = {"encoder": config, "decoder": AutoConfig.from_pretrained(other)}
        own = {f"{side}_{name}": v for side, of in sides.items() for name, v in _dropouts(recipe, of).items()}
        share = recipe.share_embeddings is not False
        model = EncoderDecoderModel.from_encoder_decoder_pretrained(folder, other, share_embeddings=share, **own)
    _tell_languages(recipe, model.config, folder)
    if not recipe.pretrained:
        model = EncoderDecoderModel(model.config)
    if recipe.cross_attention == "self":
        _cross_as_self(model)
    return model, folder


def _check_whole(recipe: Translate, config: EncoderDecoderConfig, folder: Path) -> None:
    """Refuse to change what a model that is an encoder-decoder already was trained as."""
    if recipe.decoder is not None:
        raise ConfigError(f"decoder is {recipe.decoder!r}: {folder} is an encoder-decoder already, which has its own")
    if recipe.share_embeddings not in (None, config.share_embeddings):
        raise ConfigError(
            f"share_embeddings is {recipe.share_embeddings}: {folder} is an encoder-decoder already, for which it is "
            f"{config.share_embeddings}: leave it out"
        )
    if recipe.cross_attention is not None and recipe.pretrained:
        raise ConfigError(
            f"cross_attention is {recipe.cross_attention!r}: {folder} is an encoder-decoder already, whose trained "
            "cross-attention that would replace: leave it out"
        )


def _check_vocabularies(folder: Path, other: Path) -> None:
    """Refuse sides whose ids mean different tokens: what is read and what is written go through one tokenizer."""
    if folder == other or folder_fingerprint(folder) == folder_fingerprint(other):
        return
    one, two = (AutoTokenizer.from_pretrained(path).get_vocab() for path in (folder, other))
    if one != two:
        token = min(token for token in {**one, **two} if one.get(token) != two.get(token))
        raise ConfigError(
            f"decoder: {other} has another vocabulary than {folder}: {token!r} is {_id(two, token)}, there {_id(one, token)}: "
            "both sides must have the same"
        )


def _id(vocabulary: Mapping[str, int], token: str) -> str:
    return f"id {vocabulary[token]}" if token in vocabulary else "not in it"


def _tell_languages(recipe: Translate, config: EncoderDecoderConfig, folder: Path) -> None:
    """Set the recipe's start tokens, and refuse a decoder that would not know which language it is to write."""
    given, rows = recipe.start_tokens, config.specs[1].num_languages
    if given and rows:
        raise ConfigError("start_tokens: the decoder has language embeddings, which say the language: leave them out")
    if given:
        config.decoder_start_token_ids = _start_ids(given, config.vocab_size, folder)
    written = sorted({job.written for job in recipe.jobs()} | {job.read for job in recipe.jobs() if job.kind == "bt"})
    known = config.decoder_start_token_ids
    if known and (missing := [name for name in written if name not in known]):
        raise ConfigError(
            f"start_tokens: none for {', '.join(missing)}, which the steps write: there are those of {', '.join(known)}"
        )
    if not known and not rows and len(written) > 1:
        raise ConfigError(
            f"the steps write {', '.join(written)}, but this decoder has no language embeddings: say by start_tokens which "
            "token each language begins with, such as {" + ", ".join(f"{name}: TOKEN" for name in written) + "}"
        )


def _start_ids(given: Mapping[str, int | str], size: int, folder: Path) -> dict[str, int]:
    """The ids of start tokens. Raises ConfigError for what the vocabulary does not have, and for a token of two languages."""
    vocabulary = AutoTokenizer.from_pretrained(folder).get_vocab()
    found: dict[str, int] = {}
    for language, token in given.items():
        number = vocabulary.get(token) if isinstance(token, str) else token
        if number is None or not 0 <= number < size:
            raise ConfigError(
                f"start_tokens.{language} is {token!r}: it must be a token of the vocabulary or an id below {size:,}"
            )
        if number in found.values():
            raise ConfigError(f"start_tokens.{language} is {token!r}: another language begins with it already")
        found[language] = number
    return found


@torch.no_grad()
def _cross_as_self(model: EncoderDecoderModel) -> None:
    """Let the decoder's cross-attention begin as its self-attention: heads that look at neighbouring places, which most
    pretrained models have, then read the source at about the place that is written."""
    parameters = dict(model.decoder.named_parameters())
    for name, parameter in parameters.items():
        own = parameters.get(name.replace(".crossattention.", ".attention."))
        if ".crossattention." in name and own is not None and own.shape == parameter.shape:
            parameter.copy_(own)


def _dropouts(recipe: Translate, config: Any) -> dict[str, float]:
    """The fields of a side's config that the recipe's dropout sets, as its family calls them."""
    names = ("hidden_dropout_prob", "dropout")
    return {} if recipe.dropout is None else {name: recipe.dropout for name in names if hasattr(config, name)}


class _Translating(Work):
    """Learning to translate from a recipe's files."""

    def __init__(self, recipe: Translate, report: Reporter, group: Processes, check: bool) -> None:
        self._recipe, self._report, self._group = recipe, report, group
        self.alarms = []
        check_metric(recipe.metric, recipe.score_names(), "eval or eval_text")
        model, self.folder = make_model(recipe)
        longest = min(recipe.data.max_tokens, position_limit(model.config))
        sentences = Sentences(AutoTokenizer.from_pretrained(self.folder), model.config, longest)
        self._corpora = read_corpora(recipe, sentences, Path(recipe.output) if group.first else None)
        report.show(self._corpora.report())
        self.metric = recipe.metric or ("bleu" if self._corpora.eval_pairs else "roundtrip")
        if not recipe.score_names():
            report.tell("[yellow]no eval and no eval_text: the model of the last round is kept, nothing is scored")
        if len(self._corpora.eval_texts) == 1:
            raise ConfigError("eval_text: a round trip needs the text of two languages, one is given")
        if check:
            return
        self._translator = Translator(recipe, model, sentences, self._corpora, group)
        self.model, self.optimizer = model, self._translator.optimizer
        self.steps = recipe.schedule.steps
        self.every = recipe.evaluate or max((self.steps or 1000) // 10, 1)
        self.steps_an_epoch = float(self._translator.rounds_an_epoch())
        self._window: dict[str, list[float]] = defaultdict(list)
        self._tokens, self._seconds = 0, 0.0
        report.tell(str(self._translator))

    def step(self, number: int, done: float) -> tuple[dict[str, float], int]:
        return self._translator.step(number, done)

    def done(self, progress: Progress) -> float:
        minutes = self._recipe.schedule.minutes
        if minutes is not None:
            return min(progress.seconds / (60 * minutes), 1.0)
        return min(progress.cursor.step / (self.steps or 1), 1.0)

    def tell(self, record: dict[str, float], tokens: int, seconds: float, progress: Progress) -> None:
        for name, value in record.items():
            self._window[name].append(value)
        self._tokens += tokens
        self._seconds += seconds
        step, done = progress.cursor.step, self.done(progress)
        if step % self._recipe.log and done < 1.0:
            return
        entry: dict[str, Any] = {"step": step, "kind": "train", "epoch": round(step / self.steps_an_epoch, 3)}
        entry |= {name: sum(values) / len(values) for name, values in sorted(self._window.items())}
        entry |= {"rate": self.optimizer.param_groups[-1]["lr"], "minutes": progress.seconds / 60}
        entry["tokens_per_second"] = self._tokens / max(self._seconds, 1e-9)
        self._window.clear()
        self._tokens, self._seconds = 0, 0.0
        self._report.record(entry)
        self._report.progress(entry, done, progress.seconds * (1 - done) / done if done else float("inf"))

    def score(self, step: int) -> dict[str, float]:
        return self._translator.score(self._corpora)

    def finish(self, chosen: tuple[int, dict[str, float]], step: int) -> Path:
        recipe, model = self._recipe, self.model
        output = Path(recipe.output)
        if chosen[0] != step:
            model = EncoderDecoderModel.from_pretrained(best_folder(output, chosen[0]))
        model.config.directions = [list(way) for way in recipe.directions()] or None
        with atomic_folder(output / "model") as temporary:
            save_model(temporary, model, self.folder)
            write_card(temporary, model, recipe, self._corpora, chosen[0], chosen[1])
            write_text(temporary / "scores.json", json.dumps(chosen[1], indent=1))
        remove_state(output)
        return output / "model"
