"""Which language a text is in, offline: the model inside py3langid, or a fastText file of the user's (lid.176, GlotLID)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from xlm.errors import ConfigError, MissingExtraError

BUNDLED = "langid"
Guess = tuple[str, float]


@dataclass(frozen=True)
class Identifier:
    """``guess``: text -> (language code in short form, probability); ``languages``: those that it can tell."""

    guess: Callable[[str], Guess]
    languages: frozenset[str]

    def speaks_against(self, text: str, declared: str, threshold: float) -> bool:
        """Whether a text is rather in another language than ``declared``; never where that one is not known here."""
        if canonical(declared) not in self.languages:
            return False
        found, probability = self.guess(text)
        return probability >= threshold and speaks_against(found, declared)


# Three-letter codes, of languages and of the members that models name in their stead, to the two-letter codes of XLM-R.
_SHORT: dict[str, str] = {
    pair.partition(":")[0]: pair.partition(":")[2]
    for pair in (
        "afr:af als:sq amh:am ara:ar arb:ar arz:ar apc:ar asm:as aze:az azj:az azb:az bel:be ben:bn bos:bs bre:br bul:bg "
        "cat:ca ces:cs cmn:zh cym:cy dan:da deu:de ekk:et ell:el eng:en epo:eo est:et eus:eu fas:fa fil:tl fin:fi fra:fr "
        "fry:fy gaz:om gla:gd gle:ga glg:gl guj:gu hat:ht hau:ha heb:he hin:hi hrv:hr hun:hu hye:hy ibo:ig ind:id isl:is "
        "ita:it jav:jv jpn:ja kan:kn kat:ka kaz:kk khk:mn khm:km kin:rw kir:ky kmr:ku kor:ko kur:ku lao:lo lat:la lav:lv "
        "lit:lt lvs:lv mal:ml mar:mr mkd:mk mlg:mg mon:mn msa:ms mya:my nep:ne nld:nl nno:nn nob:nb nor:nb npi:ne no:nb "
        "orm:om ori:or ory:or pan:pa pbt:ps pes:fa plt:mg pnb:pa pol:pl por:pt prs:fa pus:ps ron:ro rus:ru san:sa sin:si "
        "slk:sk slv:sl snd:sd som:so spa:es sqi:sq srp:sr sun:su swa:sw swe:sv swh:sw tam:ta tel:te tgl:tl tha:th tur:tr "
        "uig:ug ukr:uk urd:ur uzb:uz uzn:uz vie:vi xho:xh ydd:yi yid:yi yor:yo yue:zh zho:zh zsm:ms zul:zu"
    ).split()
}
# Written alike: a short text of one is easily taken for the other, so neither speaks against the other.
_ALIKE = [set(group.split()) for group in ("bs hr sr sh", "nb nn da", "id ms", "cs sk", "gl pt", "zu xh", "hi mr ne")]


def canonical(code: str) -> str:
    """``swh_Latn``, ``swa``, ``sw-KE`` and ``sw`` are all ``sw``; codes without a shorter form lose script and region."""
    base = code.replace("_", "-").split("-")[0].lower()
    return _SHORT.get(base, base)


def speaks_against(guess: str, declared: str) -> bool:
    """Whether a text found to be in ``guess`` is not in ``declared``: they are neither the same nor written alike."""
    one, two = canonical(guess), canonical(declared)
    return one != two and not any({one, two} <= group for group in _ALIKE)


@cache
def open_identifier(name: str) -> Identifier:
    """The identifier of that name, or in that file.

    Raises ``ConfigError`` for a file that is no fastText model, ``MissingExtraError`` without the extra ``corpus``.
    """
    return _langid() if name == BUNDLED else _fasttext(Path(name))


def _langid() -> Identifier:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise MissingExtraError("language identification", "py3langid", "corpus") from error
    model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)

    def guess(text: str) -> Guess:
        code, probability = model.classify(text)
        return canonical(code), float(probability)

    return Identifier(guess, frozenset(map(canonical, model.labels)))


def _fasttext(path: Path) -> Identifier:
    if not path.is_file():
        raise ConfigError(
            f"identify is {str(path)!r}: neither {BUNDLED!r} nor the file of a fastText model (.bin, .ftz)"
        )
    try:
        import fasttext
    except ImportError as error:
        raise MissingExtraError(f"identify={path}", "fasttext-predict", "corpus") from error
    try:
        model = fasttext.load_model(str(path))
    except (ValueError, RuntimeError, MemoryError) as error:
        raise ConfigError(f"identify is {str(path)!r}: not a fastText model: {error}") from error

    def guess(text: str) -> Guess:
        labels, probabilities = model.predict(text.replace("\n", " "), k=1)
        if not labels:
            return "und", 0.0
        # A model may say a little more than 1.
        return canonical(labels[0].removeprefix("__label__")), min(float(probabilities[0]), 1.0)

    every, _ = model.predict("a", k=-1)
    return Identifier(guess, frozenset(canonical(label.removeprefix("__label__")) for label in every))
