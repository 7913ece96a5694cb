"""The table of terms: its rows, matching in texts, and a site's additions."""

from collections import Counter
from pathlib import Path

import pytest
from header_series import series, stack, with_texts

from launch.config import load
from preprocess.anatomy.head import HEAD
from preprocess.config import PreprocessConfig
from preprocess.reasons import Rejection
from preprocess.select.kernels import kernel_class
from preprocess.select.lexicon import Lexicon, lexicon
from preprocess.select.rules import SelectConfig
from preprocess.select.series import select
from preprocess.select.terms import MEANINGS, Term, builtin_terms, read_terms
from shards.errors import FmctError

LANGUAGES = (
    *("en", "de", "fr", "es", "pt", "it", "nl", "sv", "no", "da", "fi", "pl", "cs"),
    *("tr", "ru", "zh", "ja", "ko"),
)
HEADS = (
    *("TC CRANEO Y COLUMNA CERVICAL", "CT head and cervical spine", "Hersenen en halswervelkolom"),
    *("Crâne et rachis cervical", "Schädel und HWS", "głowa i kręgosłup szyjny", "頭部 頸椎", "두부 경추"),
    *("Голова и шейный отдел позвоночника", "HEADNECK", "POLYTRAUMA CHEST ABDOMEN PELVIS", "CTHEAD CTCHEST"),
)
OTHERS = (
    *("CT CHEST", "C-SPINE 2.0", "5.7 ROUTINE KNEE", "CT Abdomen/Pelvis", "Thorax nativ", "HWS"),
    *(
        "RACHIS CERVICAL",
        "COLUMNA LUMBAR",
        "TORACE",
        "Buik blanco",
        "Bröstkorg",
        "Rintakehä",
        "Klatka piersiowa",
    ),
    *("Hrudník", "Toraks BT", "грудная клетка", "胸部平扫", "腹部 単純", "흉부", "Bekken uten kontrast"),
)
NEITHER = ("", "Behandlung 5.0", "Axial", "Krankenhaus Nord", "Early phase", "linear", "Kevin", "Wound")


def why(description: str, **config: object) -> str | None:
    one = series(stack(), series_description=description)
    try:
        select(one, SelectConfig.model_validate(config))
    except Rejection as rejection:
        return str(rejection.reason)
    return None


def test_every_language_has_every_kind() -> None:
    actual = Counter((term.language, term.kind) for term in builtin_terms())
    kinds = ("contrast", "negation", "agent", "body", "part", "kernel", "phantom")
    assert [(language, kind) for language in LANGUAGES for kind in kinds if not actual[language, kind]] == []
    assert all(term.source and term.language for term in builtin_terms())
    repeated = Counter((term.language, term.kind, term.term) for term in builtin_terms())
    assert max(repeated.values()) == 1


def test_every_term_is_found_as_it_is_written() -> None:
    lost = []
    for term in builtin_terms():
        bare = term.term.strip("*^$")
        bound = term.term[0] == "^" or term.term[-1] == "$"
        kind, meaning = term.kind, term.meaning
        if kind in ("body", "part"):
            kind, meaning = HEAD.reads(kind, term.term, meaning)
        for text in (bare, bare.upper(), *([] if bound else [f"5mm ({bare})", f"{bare}_5"])):
            actual = lexicon().meanings(text, kind)
            if kind not in ("negation", "kernel") and meaning not in actual:
                lost.append((term.term, text, actual))
    assert lost == []


def test_head_outweighs_other_parts_in_each_language() -> None:
    actual = {text: lexicon().meanings(text, "body") for text in (*HEADS, *OTHERS, *NEITHER)}
    assert {text for text in HEADS if "head" not in actual[text]} == set()
    assert {text for text in OTHERS if actual[text] != {"other"}} == set()
    assert {text for text in NEITHER if actual[text]} == set()
    assert (why("Thorax"), why(HEADS[0])) == ("series_description", None)


def test_terms_match_whole_words() -> None:
    site = Lexicon(
        [
            Term(kind="body", term="koppa", meaning="head"),
            Term(kind="phantom", term="^solo$", meaning="phantom"),
            Term(kind="kernel", term="é*", meaning="soft"),
            Term(kind="kernel", term="*scharf", meaning="bone"),
            Term(kind="contrast", term="k+", meaning="enhanced"),
        ]
    )
    for text, expected in {
        "KOPPA": {"head"},
        "2.koppa-5": {"head"},
        "skoppa": set(),
        "koppas": set(),
        "CTKoppa": set(),
        "axialKoppa": {"head"},
    }.items():
        assert site.meanings(text, "body") == expected, text
    assert site.meanings("solo", "phantom") == site.meanings(" (Solo) ", "phantom") == {"phantom"}
    assert site.meanings("solo 2", "phantom") == set()
    assert site.meanings("ETAGE", "kernel") == {"soft"}
    assert site.meanings("superscharf", "kernel") == {"bone"}
    assert [site.meanings(text, "contrast") for text in ("head k+", "K+5", "K")] == [
        {"enhanced"},
        set(),
        set(),
    ]


def test_a_longer_term_overrides_the_terms_within_it() -> None:
    words = lexicon()
    assert words.meanings("Virtual Non-Contrast", "contrast") == set()
    assert words.meanings("TEMPORAL BONE ST", "kernel") == set()
    assert kernel_class("Knochen scharf", words) == "bone"
    assert (why("Knochen 1.0"), why("Temporal bone 1.0"), why("Head 1.0")) == (None, None, None)
    unnamed = series(tuple(with_texts(stack(kernel=""), series_description="Knochen 1.0")))
    with pytest.raises(Rejection, match="bone_kernel"):
        select(unnamed, SelectConfig())


def test_a_phantom_is_recognised_by_its_texts() -> None:
    for text in ("Water Phantom", "FANTÔME 5mm", "水模", "Фантом", "Konstanzprüfung"):
        assert why(text) == "phantom"
    with pytest.raises(Rejection, match="phantom"):
        select(series(stack(), protocol="Catphan 600"), SelectConfig())


def test_the_recipe_decides_about_unknown_contrast() -> None:
    assert (why("Head 5.0"), why("Head 5.0", unknown_contrast="neither")) == (None, "unknown_contrast")
    assert why("Head nativ", unknown_contrast="neither") is None
    assert why("Head 5.0", contrast="with") == "no_contrast"
    assert why("Head 5.0", contrast="with", unknown_contrast="neither") == "unknown_contrast"


ROWS = """kind,term,meaning,negation
body,kepala*,head,
contrast,kontras*,enhanced,plain
negation,tanpa,alone,
"""


def test_a_site_adds_terms_in_its_recipe_or_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "site.csv").write_text("\ufeff" + ROWS)
    (tmp_path / "recipe.yaml").write_text(
        """
key_file: k
select:
  terms:
  - {kind: body, term: kepala*, meaning: head}
  - {kind: contrast, term: kontras*, meaning: enhanced, negation: plain}
  - {kind: negation, term: tanpa, meaning: alone}
"""
    )
    listed = load(PreprocessConfig, tmp_path / "recipe.yaml", [])
    in_file = load(PreprocessConfig, None, ["key_file=k", f"select.terms={tmp_path / 'site.csv'}"])
    assert listed.select.terms == in_file.select.terms
    assert listed.digest() == in_file.digest() != PreprocessConfig(key_file=Path("k")).digest()
    assert PreprocessConfig.of_record(listed.shaping()).select == listed.select
    terms = {"terms": listed.select.terms}
    assert why("Kepala dengan kontras", **terms) == "contrast"
    assert why("Kepala tanpa kontras", **terms, unknown_contrast="neither") is None
    assert why("Kepala dan thorax", **terms) is None
    assert why("Kepala dan thorax") == "series_description"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind,term\nbody,kopf\n", "the columns are kind, term; expected"),
        ("kind,term,meaning,meening\n", "the columns are"),
        ("kind,term,meaning\nbody,kopf\n", "row 2: 2 cells, the header has 3"),
        (
            "kind,term,meaning\nbodypart,kopf,head\n",
            "row 2: kind 'bodypart' is unknown; expected one of contr",
        ),
        (
            "kind,term,meaning\nbody,kopf,nek\n",
            "row 2: 'nek' is not a meaning of body; expected one of head, o",
        ),
        ("kind,term,meaning\nbody,*,head\n", "row 2: term: expected a term with at least one letter"),
        ("kind,term,meaning\nbody,kop* pijn,head\n", "row 2: term: expected . only at the start or the end"),
    ],
)
def test_a_table_with_invalid_rows_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "terms.csv").write_text(text)
    with pytest.raises(FmctError, match=message.replace("(", r"\(")):
        read_terms(tmp_path / "terms.csv")
    assert set(MEANINGS) >= {term.kind for term in builtin_terms()}


def test_an_invalid_term_of_a_recipe_is_named() -> None:
    for terms, message in (
        ("[{kind: body, term: kop, meaning: nek}]", "select.terms"),
        ("[{kind: body, word: kop, meaning: head}]", "select.terms"),
        ("absent.csv", "absent.csv: no such file"),
    ):
        with pytest.raises(FmctError, match=message):
            load(PreprocessConfig, None, ["key_file=k", f"select.terms={terms}"])
