"""The tensors that a config announces are those of the PyTorch classes, and each has exactly one published name."""

from __future__ import annotations

import pytest

from xlm.checkpoints.expected import expected_shapes, head_of
from xlm.checkpoints.published import PREFIX, table_of, to_ours, to_theirs
from xlm.families.registry import FAMILIES, family_of

torch = pytest.importorskip("torch")

SMALL = {"vocab_size": 40, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
SMALL_XLM = {"vocab_size": 40, "emb_dim": 8, "n_layers": 2, "n_heads": 2}
ROBERTA = ("Model", "ForCausalLM", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification")
ROBERTA += ("ForQuestionAnswering", "ForMultipleChoice")
XLM = ("Model", "WithLMHeadModel", "ForSequenceClassification", "ForMultipleChoice", "ForTokenClassification")
XLM += ("ForQuestionAnsweringSimple", "ForQuestionAnswering")
CASES = [
    *(
        (prefix + head, SMALL | extra)
        for prefix in ("XLMRoberta", "XLMRobertaXL")
        for head in ROBERTA
        for extra in ({},)
    ),
    ("XLMRobertaForMaskedLM", SMALL | {"tie_word_embeddings": False}),
    ("XLMRobertaForCausalLM", SMALL | {"is_decoder": True, "add_cross_attention": True}),
    (
        "XLMRobertaXLModel",
        SMALL | {"position_embedding_type": "relative_key", "is_decoder": True, "add_cross_attention": True},
    ),
    ("XLMRobertaForTokenClassification", SMALL | {"num_labels": 7, "type_vocab_size": 3}),
    *(("XLM" + head, SMALL_XLM | {"n_langs": 3}) for head in XLM),
    ("XLMWithLMHeadModel", SMALL_XLM | {"tie_word_embeddings": False, "use_lang_emb": False, "n_langs": 3}),
    ("XLMWithLMHeadModel", SMALL_XLM | {"asm": True, "asm_cutoffs": [10, 20], "asm_div_value": 2.0}),
    ("XLMForMultipleChoice", SMALL_XLM | {"num_labels": 8, "summary_proj_to_labels": False}),
    ("XLMForSequenceClassification", SMALL_XLM | {"num_labels": 5}),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "options"), CASES, ids=[f"{name}-{i}" for i, (name, _) in enumerate(CASES)])
def test_the_tensors_of_every_class(name, options):
    import xlm

    cls = getattr(xlm, name)
    config = cls.config_class(**options)
    with torch.device("meta"):
        model = cls(config)
    base = not hasattr(model, "roberta") and not hasattr(model, model.base_model_prefix)
    found = {(PREFIX if base else "") + key: tuple(p.shape) for key, p in model.named_parameters()}
    assert expected_shapes(config, name) == found
    # A bijection: every name has one published name, which leads back.
    family = family_of(config)
    published = {key: to_theirs(family, key) for key in found}
    assert len(set(published.values())) == len(published)
    assert {to_ours(family, theirs) for theirs in published.values()} == set(found)


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_names_without_the_prefix_and_buffers(model_type):
    family = FAMILIES[model_type]
    full = table_of(family).to_theirs("roberta.embeddings.word_embeddings.weight")
    assert full is not None
    assert to_ours(family, full.partition(".")[2]) == "roberta.embeddings.word_embeddings.weight"
    assert to_ours(family, "roberta.embeddings.position_ids") is None
    assert to_ours(family, "of.nobody") is None


def test_heads_by_class_name():
    assert head_of("XLMRobertaXLForMaskedLM") == "ForMaskedLM" and head_of("XLMWithLMHeadModel") == "WithLMHeadModel"
    assert head_of(None) == head_of("BertModel") == head_of("XLMRobertaForFun") == "Model"
