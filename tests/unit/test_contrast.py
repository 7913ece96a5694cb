"""Contrast stated by headers, in the languages of hospitals."""

from typing import Any

import pytest

from preprocess.dicom.catalog import Texts
from preprocess.select.contrast import any_contrast, has_contrast
from preprocess.select.lexicon import lexicon

PLAIN = {
    "en": (
        *("HEAD W/O CONTRAST", "head_wo", "Head without", "NCCT", "NON-CONTRAST HEAD", "non con", "C- 5.0"),
        *("PRE CONTRAST", "Unenhanced", "HEAD PLAIN", "NON-CE HEAD", "pre CE", "NCE", "W/OUT CONTRAST"),
        *("CONTRAST: NONE", "CONTRAST = NO", "NO ORAL OR IV CONTRAST", "HEAD W / O", "W/O IV CONTRAST 5MM"),
        *(
            "IV CONTRAST NOT GIVEN",
            "CTA head w/o contrast",
            "HEAD NC",
            "pre-contrast axial",
            "Contrast none",
            "Brain C(-)",
            "W/O DYE",
        ),
    ),
    "de": (
        *("Schädel nativ", "Schaedel NATIV 5.0 H31s", "ohne KM", "vor KM", "o. KM", "Kopf oKM", "kein KM"),
        *("-KM", "KM: nein", "Kopf ohne i.v. KM", "Kopf ohne Kontrastmittel"),
    ),
    "fr": ("CRANE SANS INJECTION", "Crâne s/inj", "encéphale non injecté", "TÊTE SPC", "Injection : non"),
    "es": ("CRANEO SIN CONTRASTE", "TC CRANEO S/C", "CRANEO SIMPLE", "SIN CONTRASTE IV", "CONTRASTE: NO"),
    "pt": ("CRANIO SEM CONTRASTE", "Crânio s/ contraste", "CRANIO SIMPLES"),
    "it": ("ENCEFALO SENZA CONTRASTO", "CRANIO BASALE", "encefalo senza mdc"),
    "nl": ("Hersenen zonder contrast", "Schedel blanco", "geen contrast"),
    "sv": ("Skalle utan kontrast", "Hjärna u kontrast"),
    "no": ("Hode uten kontrast", "Caput uten iv kontrast"),
    "da": ("CT cerebrum uden kontrast", "Hoved ikke kontrast"),
    "fi": ("Pää natiivi", "Pään TT ilman varjoainetta"),
    "pl": ("Głowa bez kontrastu", "TK GŁOWY BEZ ŚRODKA KONTRASTOWEGO", "głowa natywna", "TK głowy b/k"),
    "cs": ("Mozek nativně", "Hlava bez k.l.", "Hlava bez KL"),
    "tr": ("Beyin BT kontrastsız", "KONTRASTSIZ BEYİN", "OPAKSIZ BEYİN BT", "Kontrast: yok"),
    "ru": ("Голова без контраста", "ГМ нативная фаза", "головной мозг без КУ", "БЕЗ КОНТРАСТНОГО УСИЛЕНИЯ"),
    "zh": ("头颅平扫 5mm", "頭顱平掃", "腦部 無顯影劑", "腦部電腦斷層(不打顯影劑)", "非增强头颅", "未增强"),
    "ja": ("頭部単純 5mm", "頭部 造影なし", "頭部非造影", "頭部CT 造影剤使用せず", "ｃｔ頭部 単純"),
    "ko": ("두부 비조영", "뇌 CT 조영제 없이", "두부 조영전", "Brain CT (비조영)"),
    "hu": ("Koponya natív", "Koponya kontraszt nélkül"),
}
ENHANCED = {
    "en": (
        *("HEAD W CONTRAST", "C+ HEAD", "post contrast", "w/ iv", "CTA head", "Angio 0.75", "CTV_1.0"),
        *("venous", "with contrast", "CE HEAD", "CECT", "Head no tilt with contrast", "W WO CONTRAST"),
        *("pre and post contrast", "HEAD W&WO CONTRAST", "HEAD POST CON"),
    ),
    "de": (
        *("Post KM", "HEAD mit KM", "nach KM", "HEAD + KM", "HEAD +KM", "Schädel KM", "Schädel_KM_5.0"),
        *("Kopf mKM", "Schädel - KM", "Kopf nativ, dann mit KM", "Schädel mit und ohne KM"),
    ),
    "fr": ("CRANE AVEC INJECTION", "TDM CEREBRAL APRES INJECTION", "crâne injecté"),
    "es": ("CRANEO CON CONTRASTE", "TC CRANEO C/C", "sin y con contraste"),
    "pt": ("CRANIO COM CONTRASTE", "CRÂNIO PÓS CONTRASTE"),
    "it": ("ENCEFALO CON MDC", "Encefalo dopo mdc", "con contrasto"),
    "nl": ("Hersenen met contrast", "met en zonder contrast"),
    "sv": ("Skalle med kontrast", "hjärna utan och med kontrast"),
    "no": ("Hode med kontrast",),
    "da": ("Hoved med kontrast",),
    "fi": ("Pää varjoaine", "Pään TT varjoainetehosteinen"),
    "pl": ("Głowa z kontrastem", "GŁOWA PO KONTRAŚCIE"),
    "cs": ("Mozek po k.l.", "Hlava s KL", "hlava postkontrastně", "nativ a po KL"),
    "tr": ("Beyin BT kontrastlı", "IV KONTRASTLI BEYİN"),
    "ru": ("Голова с контрастом", "ГМ с КУ", "после в/в контрастирования"),
    "zh": ("头颅增强 5mm", "平扫+增强", "腦部 顯影劑"),
    "ja": ("頭部造影 5mm", "頭部 造影後"),
    "ko": ("두부 조영", "뇌 CT 조영증강", "Brain 조영후"),
    "hu": ("Koponya kontrasztanyaggal",),
}
SILENT = (
    *("", "Head routine", "CT Head", "WOUND", "NO TILT", "Post. fossa", "CEREBRUM", "Cervix", "KMH", "Face"),
    *("Brain 5 kmx", "5.0 H31s", "Facial bones 1.0 ST", "Untersuchung Kopf", "Příjem hlava"),
)
NO_AGENT = (
    *("NONE", "no", "Without", "IV: no contrast", "N", "C-", "-", "--", "Not used", "not given", "No agent"),
    *("IV_CM_NONE", "0.0", "OFF", "NEIN", "AUCUN", "无", "sans", "ninguno", "Nessuno", "нет", "なし", "없음"),
    *("kein KM", "brak", "yok", "geen", "ingen", "Nenhum", "ei", "žádný"),
)
NOTHING = (
    *("", " ", "N/A", "NA", "n.a.", "NOT APPLICABLE", "UNKNOWN", "ANONYMIZED", "anonymised", "Deidentified"),
    *("REMOVED", "XXXX", "ANON", "unbekannt", "未知", "ORAL"),
)
AGENTS = (
    *("Omnipaque", "IV", "APPLIED", "Y", "100 ml", "Non-ionic", "NON IONIC 100", "KM", "Natrium", "碘海醇"),
    *("OMNIPAQUE 350", "Ultravist", "ORAL & IV", "Contrast", "Xenetix", "Iomeron"),
)


def contrast_of(description: str, agent: str = "", **more: Any) -> bool | None:
    texts = Texts(series_description=description, contrast=agent, **more)
    return has_contrast(texts, lexicon())


@pytest.mark.parametrize("language", PLAIN)
def test_contrast_is_recognised_in_the_hospitals_language(language: str) -> None:
    actual = {text: contrast_of(text) for text in (*PLAIN[language], *ENHANCED[language])}
    assert actual == {text: False for text in PLAIN[language]} | {text: True for text in ENHANCED[language]}


@pytest.mark.parametrize("description", SILENT)
def test_descriptions_without_contrast_terms_are_unknown(description: str) -> None:
    assert contrast_of(description) is None


def test_an_agents_field_means_no_contrast_unknown_or_contrast() -> None:
    for agents, expected in ((NO_AGENT, False), (NOTHING, None), (AGENTS, True)):
        assert {agent: contrast_of("HEAD 5.0 J40s", agent) for agent in agents} == dict.fromkeys(
            agents, expected
        )


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"contrast_ingredient": "IODINE"}, True),
        ({"contrast_volume": 80.0}, True),
        ({"contrast_volume": 0.0}, None),
        ({"contrast_route": "IV"}, True),
        ({"contrast_route": "ORAL"}, None),
        ({"contrast_route": "NONE"}, None),
        ({"agent": "NONE", "contrast_volume": 80.0}, False),
        ({"agent": "BARIUM", "contrast_route": "ORAL"}, None),
        ({"agent": "Gastrografin", "contrast_volume": 500.0, "contrast_route": "ORAL"}, None),
        ({"agent": "Omnipaque", "contrast_volume": 0.0}, True),
        ({"agent": "NEIN", "contrast_ingredient": "IODINE"}, True),
    ],
)
def test_ingredient_volume_and_route_are_read(more: dict[str, Any], expected: bool | None) -> None:
    assert contrast_of("Head 5.0", **more) is expected


def test_the_description_overrides_an_agent_listed_in_every_series() -> None:
    plain = ("HEAD W/O CONTRAST", "head_wo", "NON-CONTRAST HEAD", "C- 5.0", "PRE CONTRAST", "HEAD PLAIN")
    for text in (*plain, "Schädel nativ", "ohne KM", "vor KM", "Kopf oKM", "NCE", "CRANE SANS INJECTION"):
        assert contrast_of(text, "Visipaque") is False, text
    assert contrast_of("HEAD W/O CONTRAST", "NONE") is False
    assert contrast_of("HEAD W CONTRAST", "NONE") is True
    assert contrast_of("CRANE SANS INJECTION", "AUCUN") is False


def test_an_agent_in_some_images_counts_for_the_series() -> None:
    plain, silent, given = Texts(contrast="NONE"), Texts(), Texts(contrast="Imeron")
    assert any_contrast([silent, given, plain], lexicon()) is True
    assert any_contrast([silent, plain], lexicon()) is None
    assert any_contrast([plain], lexicon()) is False
